"""How far the writing of texts is: a line now and then, with rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from data.store.progress import ProgressLine

LEAST_SHARE = 0.1  # of the texts before the time that is left is told: the first of each program wait for its compiling


class WritingProgress:
    """Reports lines about `total` texts, of which `done` were written before, each `interval` seconds at most."""

    def __init__(self, total: int, done: int, report: Callable[[str], None], interval: float):
        self.total, self.first, self.done, self.tokens = total, done, done, 0
        self.report, self.interval = report, interval
        self.started = self.shown = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self, tokens: int) -> None:
        """Counts a text of so many tokens."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        self.show()

    def show(self) -> None:
        """Shows a line, if the last one is old enough."""
        now = time.monotonic()
        if now - self.shown < self.interval or self.done == self.first:
            return
        self.shown = now
        line = f"writing: {self.done:,} of {self.total:,} texts, {self.tokens / self.seconds:,.0f} tokens/s"
        share = (self.done - self.first) / (self.total - self.first)
        if share >= LEAST_SHARE:
            left = (1 - share) / share * self.seconds
            line += f", {int(left // 60)}:{int(left % 60):02} left"
        self.report(ProgressLine(line))
