"""No more connections are granted than there are, and a table that wants several gets them in one step."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter


def test_connections_stay_within_the_limit() -> None:
    limiter, lock, held, most = ConnectionLimiter(3), threading.Lock(), 0, 0

    def work(connections: int) -> None:
        nonlocal held, most
        with limiter.take(connections):
            with lock:
                held += connections
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= connections

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1, 3, 2, 1, 2, 3, 1, 1] * 3))
    assert (most, held) == (3, 0)


def test_connections_of_failed_work_are_free_again() -> None:
    limiter = ConnectionLimiter(2)
    with pytest.raises(ValueError, match="broken"), limiter.take(2):
        raise ValueError("broken")
    with limiter.take(2):
        pass
