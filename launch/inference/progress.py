"""How far a piece of work is: a line now and then, with rate and time left. Tasks and `skald quality` show it."""

from __future__ import annotations

import time
from collections.abc import Callable

from data.store.progress import ProgressLine

LEAST_SHARE = 0.1  # of the work before the time that is left is told: the first of each program wait for its compiling


class Progress:
    """Reports lines about `total` `things`, of which `done` were done before, each `interval` seconds at most.

    The rate is in tokens where `add` is told of them, else in things.
    """

    def __init__(self, name: str, things: str, total: int, done: int, report: Callable[[str], None], interval: float):
        self.name, self.things, self.report, self.interval = name, things, report, interval
        self.total, self.first, self.done, self.tokens = total, done, done, 0
        self.started = self.shown = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self, tokens: int = 0) -> None:
        """Counts a thing, and the tokens in it."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        self.show()

    def show(self) -> None:
        """Shows a line, if the last one is old enough."""
        now, new = time.monotonic(), self.done - self.first
        if now - self.shown < self.interval or not new:
            return
        self.shown = now
        rate = f"{self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else f"{new / self.seconds:,.1f} a second"
        line = f"{self.name}: {self.done:,} of {self.total:,} {self.things}, {rate}"
        share = new / (self.total - self.first)
        if share >= LEAST_SHARE:
            left = (1 - share) / share * self.seconds
            line += f", {int(left // 60)}:{int(left % 60):02} left"
        self.report(ProgressLine(line))
