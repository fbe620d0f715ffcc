"""Makes the rows of the next dispatch in a thread, so that no device waits for them. train/run.py feeds with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls `make(first, count)` for the steps of a dispatch ahead of time, in a thread of its own.

    What `make` needs of the thread, as jax.set_mesh, it sets itself. An error is raised where its rows are taken.
    """

    def __init__(self, make: Callable[[int, int], T]):
        self.make = make
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self.ahead: tuple[tuple[int, int], Future[T]] | None = None

    def take(self, steps: tuple[int, int], following: tuple[int, int] | None) -> T:
        """The rows of `steps` (first, count), and begins those of `following`, which are most likely asked for next."""
        ahead, self.ahead = self.ahead, None
        rows = ahead[1].result() if ahead and ahead[0] == steps else self.make(*steps)
        if following:
            self.ahead = following, self.thread.submit(self.make, *following)
        return rows

    def close(self) -> None:
        """Ends the thread; rows that nobody took are dropped."""
        self.thread.shutdown(wait=False, cancel_futures=True)
