"""How many programs may be in flight, dispatched and not yet finished: THE rule for all that dispatch in a row.

On CPU the devices of a process share a pool of as many threads, and a program that waits for its part on another device
in a collective blocks one. Programs that do not take each other's results may start in any order: enough of them in
flight hold all threads and wait for each other until XLA aborts the process (jax 0.10.2, two devices: an evaluation of
150 batches). So there only one is in flight. The loop, evaluation and preemption ask here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")
R = TypeVar("R")


def limit() -> int:
    """Programs in flight at most: the one that runs and, where that is safe, one behind it, so that no device idles."""
    return 1 if jax.default_backend() == "cpu" and jax.local_device_count() > 1 else 2


def fetch(result: R) -> R:
    """`result` on the host once all devices have finished it: what is whole on each would be read off the first."""
    return jax.device_get(jax.block_until_ready(result))


def bounded_map(dispatch: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """Results of `dispatch`, fetched to the host, in order. An input is made while those before are computed."""
    flying: deque[R] = deque()
    for given in inputs:
        while len(flying) >= limit():
            yield fetch(flying.popleft())
        flying.append(dispatch(given))
    yield from map(fetch, flying)
