"""Limits how many programs are in flight, dispatched and not yet finished: THE rule for all that dispatch in a row.
The loop, evaluation and preemption ask here.

On CPU the devices of a process share a pool of as many threads. A program that waits in a collective for its part on
another device blocks one of them. Programs that do not take each other's results may start in any order: enough of them
in flight block all threads, and wait for each other until XLA aborts the process (jax 0.10.2, two devices: an
evaluation of 150 batches). So on several CPU devices only one is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")
R = TypeVar("R")


def limit() -> int:
    """The most programs in flight: the one that runs and, where it is safe, one queued, so that no device idles."""
    return 1 if jax.default_backend() == "cpu" and jax.local_device_count() > 1 else 2


def fetch(result: R) -> R:
    """`result` on the host, once all devices finished it: device_get alone reads a replicated array off the first."""
    return jax.device_get(jax.block_until_ready(result))


def bounded_map(dispatch: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """Results of `dispatch`, fetched to the host, in order. The next input is made while earlier ones are computed."""
    pending: deque[R] = deque()
    for item in inputs:
        while len(pending) >= limit():
            yield fetch(pending.popleft())
        pending.append(dispatch(item))
    yield from map(fetch, pending)
