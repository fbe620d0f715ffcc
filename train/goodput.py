"""Tells apart what the time of a run went into: the kinds of RUN/card.json. train/listeners/card.py keeps an Account.

"Goodput" is the share of useful work: Google Cloud, "Introducing ML Productivity Goodput" (2024).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

# compile: tracing, lowering and compiling, or reading programs from the cache, wherever it happens.
# step: the loop from one finished dispatch to the next, but for compiling and waiting for rows.
# data: waiting for rows (devices may compute earlier steps meanwhile), opening and tokenizing texts.
# evaluation: scores, tasks and samples.     save: what the loop waits for; files are written beside the steps.
# lost: an attempt's time behind the checkpoint from which the next one went on.
KINDS = ("compile", "step", "data", "evaluation", "save", "lost")


class Account:
    """The seconds of one process by kind, as they pass; what is of no kind is `other`: starting, restoring, listening.

    `before`: seconds that the process had run when the account was opened. The loop's own time comes from its Measured
    events (`add_steps`), that of listeners from `spending`, that of the compiler from `add_compilation`.
    """

    def __init__(self, before: float = 0.0, clock: Callable[[], float] = time.perf_counter):
        self.clock, self.opened = clock, clock() - before
        self.seconds: Counter[str] = Counter()
        self.inner: list[float] = []  # of every `spending` that is open: what inner ones and the compiler took of it
        self.looping = False

    @property
    def wall(self) -> float:
        return self.clock() - self.opened

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """What passes within counts as `kind`, but for what an inner one or the compiler takes."""
        start = self.clock()
        self.inner.append(0.0)
        try:
            yield
        finally:
            whole = self.clock() - start
            self.seconds[kind] += whole - self.inner.pop()
            if self.inner:
                self.inner[-1] += whole

    def add_compilation(self, seconds: float) -> None:
        self.seconds["compile"] += seconds
        if self.inner:
            self.inner[-1] += seconds
        elif self.looping:
            self.seconds["step"] -= seconds  # it is part of the seconds of a step that is still to be measured

    def add_steps(self, steps: Iterable[dict]) -> None:
        """Adds the steps of a Measured event."""
        for step in steps:
            waited = step["seconds"] * step["data_wait"]
            self.seconds["data"] += waited
            self.seconds["step"] += step["seconds"] - waited

    def by_kind(self) -> dict[str, float]:
        return {kind: max(0.0, self.seconds[kind]) for kind in KINDS}
