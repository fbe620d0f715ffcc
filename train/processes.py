"""Lets the processes of one run agree on JSON values: process 0 decides and broadcasts, or all gather from all.

Values go through the coordination service that jax.distributed starts in process 0 (launch/cluster/join.py). JAX has no
public name for its client, which every version of our bounds has. A process alone sends nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import TypeVar

from jax._src import distributed

T = TypeVar("T")

TIMEOUT_MS = 7 * 24 * 3600 * 1000  # never reached: waits end by an answer, or with the process (train/failure_link.py)
ROUNDS = itertools.count()  # every process takes part in every `all_gather_json`, so all count alike


def index() -> int:
    """The index of this process. Unlike jax.process_index() it starts no backend."""
    return distributed.global_state.process_id


def count() -> int:
    return distributed.global_state.num_processes


def coordinator() -> str | None:
    """host:port on which process 0 listens; None where no joining has begun."""
    return distributed.global_state.coordinator_address


def broadcast_value(name: str, value: str | None = None) -> str:
    """The value that process 0 publishes under a name. Process 0 passes it, the others wait for it."""
    client = distributed.global_state.client
    if value is not None:
        client.key_value_set(f"skald/{name}", value)
    return client.blocking_key_value_get(f"skald/{name}", TIMEOUT_MS)


def all_gather_json(value) -> list:
    """A list of what every process passes, a JSON value, in process order: the same on all. All must call it."""
    if count() == 1:
        return [value]
    client, prefix = distributed.global_state.client, f"skald/{next(ROUNDS)}"
    client.key_value_set(f"{prefix}/{index():06}", json.dumps(value))
    client.wait_at_barrier(prefix, TIMEOUT_MS)
    return [json.loads(text) for _, text in sorted(client.key_value_dir_get(prefix))]


def broadcast_from_first(decide: Callable[[], T]) -> T:
    """What `decide()` returns in process 0, a JSON value, on all. No other process calls it; if it raises, all end."""
    return all_gather_json(decide() if index() == 0 else None)[0]


def first_then_others(make: Callable[[], T]) -> T:
    """`make()` in process 0, and only then in the others: they find the files it left, where they share its disk."""
    result = make() if index() == 0 else None
    all_gather_json(None)
    return result if index() == 0 else make()
