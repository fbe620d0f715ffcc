"""A lock that one process holds at a time; the system frees it when the process ends, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, made if it is not there. `waiting` is called once where another process holds it."""
    with file.open("a") as opened:
        told = False
        while not try_lock(opened):
            if not told:
                waiting()
                told = True
            time.sleep(0.2)
        yield


def try_lock(opened) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
