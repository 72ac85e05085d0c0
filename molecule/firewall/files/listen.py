"""Say hello to whoever connects: listen.py PORT..."""

from __future__ import annotations

import socket
import sys
import threading


def serve(port: int) -> None:
    """Answer every connection to a port."""
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            connection, _ = server.accept()
            connection.sendall(b"hello\n")
            connection.close()


for argument in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(argument),)).start()
