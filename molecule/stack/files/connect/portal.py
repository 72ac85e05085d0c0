"""Run the snippets of the portal page, whose reader puts the password and the key where the page names them."""

import html
import json
import os
import re
from pathlib import Path

import duckdb

page = Path("/opt/lakehouse/config/portal.html").read_text(encoding="utf-8")
pyiceberg, statements = (
    html.unescape(code) for code in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)
)
given = {
    "PASSWORD": os.environ["LAKEHOUSE_PASSWORD"],
    "S3_KEY": os.environ["LAKEHOUSE_S3_KEY"],
    "S3_SECRET": os.environ["LAKEHOUSE_S3_SECRET"],
}

for name, value in given.items():
    assert f'"{name}"' in pyiceberg, name
    pyiceberg = pyiceberg.replace(f'"{name}"', json.dumps(value))
*lines, last = pyiceberg.rsplit("\n", 1)
found: dict[str, object] = {}
exec("\n".join(lines), found)
assert len(eval(last, found))

authority = os.environ.get("SSL_CERT_FILE")
lake = duckdb.connect(config={"ca_cert_file": authority} if authority else {})
for name, value in given.items():
    assert re.search(rf"[':]{name}'", statements), name
    literal = value.replace("'", "''").replace("\\", r"\\")  # of SQL, and of the expression's own
    statements = re.sub(rf"(?<=[':]){name}(?=')", literal, statements)
bands = lake.execute(statements).fetchall()
assert {band for band, _ in bands} == {"low", "medium", "high"}, bands
