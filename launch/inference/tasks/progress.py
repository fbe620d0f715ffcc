"""How far a task is: a line now and then, with rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from data.store.progress import SECONDS, ProgressLine


class TaskProgress:
    """Reports lines about `total` examples, of which `done` were scored before, each `seconds` at most."""

    def __init__(self, name: str, total: int, done: int, report: Callable[[str], None], seconds: float = SECONDS):
        self.name, self.total, self.first, self.done = name, total, done, done
        self.report, self.seconds = report, seconds
        self.started = self.shown = time.monotonic()
        if done:
            report(f"{name}: {done:,} of {total:,} examples are scored already")

    def add(self) -> None:
        self.done += 1
        self.show()

    def show(self) -> None:
        """Shows a line, if the last one is old enough."""
        now = time.monotonic()
        if now - self.shown < self.seconds:
            return
        self.shown = now
        line = f"{self.name}: {self.done:,} of {self.total:,} examples"
        if new := self.done - self.first:
            rate = new / (now - self.started)
            left = (self.total - self.done) / rate
            line += f", {rate:,.1f} a second, {int(left // 60)}:{int(left % 60):02} left"
        self.report(ProgressLine(line))
