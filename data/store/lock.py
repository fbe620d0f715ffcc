"""A lock that one process holds at a time; the system frees it when the process ends, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, made if it is not there. `waiting` is called once where another process holds it."""
    told = False
    while True:
        with held_lock(file) as held:
            if held:
                yield
                return
        if not told:
            waiting()
            told = True
        time.sleep(0.2)


@contextlib.contextmanager
def held_lock(file: Path) -> Iterator[bool]:
    """Holds the lock of a file, made if it is not there, unless another process holds it: yields whether it does."""
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield is_current(opened, file)


def is_current(opened, file: Path) -> bool:
    """Whether a file that was opened still has its name: who holds a lock may remove its file (data/store/cache.py)."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False
