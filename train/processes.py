"""What the processes of one run agree on, besides arrays: process 0 decides, and all hear it.

It goes through the coordination service that jax.distributed starts in process 0 (launch/cluster/join.py). JAX has
no public name for its client, which every version of our bounds has. A process alone talks to nobody.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import TypeVar

from jax._src import distributed

T = TypeVar("T")

PATIENCE = (
    7 * 24 * 3600 * 1000
)  # ms: waits end by an answer, or with the process (train/failure_link.py); never by this
TURNS = itertools.count()  # every process takes part in every `gathered`, so all count alike


def index() -> int:
    """Of this process. Unlike jax.process_index() it starts no backend."""
    return distributed.global_state.process_id


def count() -> int:
    return distributed.global_state.num_processes


def coordinator() -> str | None:
    """host:port on which process 0 listens; None where no joining has begun."""
    return distributed.global_state.coordinator_address


def broadcast_value(name: str, value: str | None = None) -> str:
    """What process 0 calls `name`: it gives the value, the others wait for it."""
    client = distributed.global_state.client
    if value is not None:
        client.key_value_set(f"skald/{name}", value)
    return client.blocking_key_value_get(f"skald/{name}", PATIENCE)


def all_gather_json(value) -> list:
    """What every process gives, in order of their numbers, on all of them; values are JSON. All must call it."""
    if count() == 1:
        return [value]
    client, turn = distributed.global_state.client, f"skald/{next(TURNS)}"
    client.key_value_set(f"{turn}/{index():06}", json.dumps(value))
    client.wait_at_barrier(turn, PATIENCE)
    return [json.loads(text) for _, text in sorted(client.key_value_dir_get(turn))]


def broadcast_from_first(decide: Callable[[], T]) -> T:
    """What process 0 decides, on all: only it looks. What it raises ends all."""
    return all_gather_json(decide() if index() == 0 else None)[0]


def first_then_others(make: Callable[[], T]) -> T:
    """`make` in process 0, and only then in the others: they find what it left, where they share its disk."""
    made = make() if index() == 0 else None
    all_gather_json(None)
    return made if index() == 0 else make()
