"""Limit how many connections to Moodle's database are open at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ConnectionLimiter:
    """Grant a number of connections at a time: a table that is read in n ranges takes n in one step, so none waits halfway."""

    def __init__(self, connections: int) -> None:
        self._free = connections
        self._changed = threading.Condition()

    @contextmanager
    def take(self, connections: int) -> Iterator[None]:
        """Hold so many connections; blocks until they are free."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= connections)
            self._free -= connections
        try:
            yield
        finally:
            with self._changed:
                self._free += connections
                self._changed.notify_all()
