"""The pages of notebooks' Spark applications behind Jupyter."""

from __future__ import annotations

from typing import Any

from jupyter_server_proxy.handlers import NamedLocalProxyHandler

# Spark takes the first free one for an application. Spark's own scripts look for the words `proxy` and `history` in a page's
# path: neither may be in these names.
SERVERS = {f"spark-{port}": {"port": port, "launcher_entry": {"enabled": False}} for port in range(4040, 4050)}


ENDED = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Spark has ended</title>
<body style="font-family: sans-serif; margin: 3em; max-width: 40em">
<h1>This Spark application has ended</h1>
<p>Its pages were its own and have ended with it: of what notebooks do no history is kept. A cell that starts Spark again, by
<code>SparkSession.builder.getOrCreate()</code> or <code>%sql</code>, shows the link to the new application's pages with
<code>spark</code> as its last line.</p>
</body></html>
"""


def tell_of_the_end() -> None:
    """Make the page of an application that has ended say so."""
    forward = NamedLocalProxyHandler.proxy

    async def proxy(self: Any, port: int, path: str) -> None:
        try:
            await forward(self, port, path)
        except ConnectionRefusedError:
            self.set_status(410)
            self.finish(ENDED)

    NamedLocalProxyHandler.proxy = proxy
