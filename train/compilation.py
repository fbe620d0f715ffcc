"""Tells how long JAX traces, lowers and compiles. train/goodput.py counts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import jax.monitoring

PREFIX = "/jax/core/compile/"  # of the events that JAX records as it traces, lowers, and compiles or reads its cache


class CompileTimer:
    """Calls `add(seconds)` for what was traced, lowered and compiled in the thread that made it.

    Programs are traced within programs, and JAX records the time of each: here every moment counts once.
    """

    def __init__(self, add: Callable[[float], None], clock: Callable[[], float] = time.perf_counter):
        self.add, self.clock, self.thread = add, clock, threading.get_ident()
        self.intervals: list[tuple[float, float]] = []  # disjoint, in order
        jax.monitoring.register_event_duration_secs_listener(self.record)

    def record(self, event: str, seconds: float, **_) -> None:
        if not event.startswith(PREFIX) or threading.get_ident() != self.thread:
            return
        end = self.clock()
        start, counted = end - seconds, 0.0
        while self.intervals and self.intervals[-1][1] > start:
            inner_start, inner_end = self.intervals.pop()
            start, counted = min(start, inner_start), counted + inner_end - inner_start
        self.intervals.append((start, end))
        self.add(end - start - counted)

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self.record)
