"""The pages of notebooks' Spark applications behind Jupyter."""

from __future__ import annotations

import os
from typing import Any

from jupyter_server_proxy.handlers import NamedLocalProxyHandler

# Spark takes the first free one for an application. Spark's own scripts look for the words `proxy` and `history` in a page's
# path: neither may be in these names.
SERVERS = {f"spark-{port}": {"port": port, "launcher_entry": {"enabled": False}} for port in range(4040, 4050)}


def lead_to_history() -> None:
    """Make the page of an application that has ended lead to Spark's history, which has it."""
    forward = NamedLocalProxyHandler.proxy

    async def proxy(self: Any, port: int, path: str) -> None:
        try:
            await forward(self, port, path)
        except ConnectionRefusedError:
            self.redirect(f"{os.environ.get('LAKEHOUSE_PUBLIC_URL', '')}/spark-history/")

    NamedLocalProxyHandler.proxy = proxy
