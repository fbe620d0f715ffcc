"""How far a source is tokenized: a line now and then, with rate and time left. data/store/build.py shows it."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 10.0  # between lines


class ProgressLine(str):
    """A line that is out of date once the next one comes: a terminal may show that in its place."""

    __slots__ = ()


class Progress:
    """Reports lines about `total` bytes to read, of which `done` were read before."""

    def __init__(self, name: str, total: int, done: int, report: Callable[[str], None]):
        self.name, self.total, self.first, self.report = name, total, done, report
        self.started = self.shown = time.monotonic()
        report(f"tokenizing {name}" + (f", going on at {done / max(total, 1):.0%}" if done else ""))

    def show(self, done: int) -> None:
        """`done`: bytes of whole files that are read, and of text read of the file at hand."""
        now = time.monotonic()
        if now - self.shown < SECONDS or done <= self.first:
            return
        self.shown = now
        rate = (done - self.first) / (now - self.started)
        left = max(self.total - done, 0) / rate
        line = (
            f"tokenizing {self.name}: {done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, "
            f"{int(left // 60)}:{int(left % 60):02} left"
        )
        self.report(ProgressLine(line))
