"""Keep what crosses an interface until a file appears, and tell which of the secrets on standard input can be read in it.

sniff.py INTERFACE FILE < {"name": "secret", ...}     prints {"bytes": N, "read": [names]}
"""

import base64
import json
import socket
import sys
import time
from pathlib import Path

interface, end = sys.argv[1], Path(sys.argv[2])
end.unlink(missing_ok=True)
secrets = json.load(sys.stdin)
capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 2**20)
capture.bind((interface, 0))
capture.settimeout(0.5)
seen, looked = bytearray(), time.monotonic()
while len(seen) < 512 * 2**20:
    if time.monotonic() - looked > 0.5:
        looked = time.monotonic()
        if end.exists():
            break
    try:
        seen += capture.recv(2**17)[54:]  # without the headers a text that two packets share is one again
    except TimeoutError:
        continue
forms = {name: [secret.encode()] for name, secret in secrets.items()}
for user in ("admin", "service"):
    login = base64.b64encode(f"{user}:{secrets[f'vault_{user}_password']}".encode())
    forms[f"vault_{user}_password"].append(login)
json.dump(
    {"bytes": len(seen), "read": sorted(n for n, texts in forms.items() if any(t in seen for t in texts))}, sys.stdout
)
