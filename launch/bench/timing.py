"""The time that a call takes: what the limits of launch/bench are measured with."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds_of(call: Callable, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start
