"""What the processes of one run say to each other besides arrays: decisions of process 0, and that one of them failed.

All of it goes through the coordination service that jax.distributed starts in process 0 (launch/cluster.py joins it);
JAX has no public name for its client, which every version of our bounds has. A process alone talks to nobody.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import jax
from jax._src import distributed

T = TypeVar("T")

FAILED = "skald/failed"  # the exit status with which all processes end
PATIENCE = 7 * 24 * 3600 * 1000  # ms: waits end by an answer, by `fail`, or by JAX's heartbeat; never by this
FAREWELL = 10_000  # ms the processes wait for each other before they end after a failure
TURNS = itertools.count()  # every process takes part in every `gathered`, so all count alike
SPEAKING = threading.Lock()  # held while a failure is told: the process may not end before its line is out
WATCHING: list[threading.Thread] = []


def number() -> int:
    """Of this process. Unlike jax.process_index() it starts no backend."""
    return distributed.global_state.process_id


def count() -> int:
    return distributed.global_state.num_processes


def coordinator() -> str | None:
    """host:port on which process 0 listens; None where no joining has begun."""
    return distributed.global_state.coordinator_address


def gathered(value) -> list:
    """What every process gives, in order of their numbers, on all of them; values are JSON. All must call it."""
    if count() == 1:
        return [value]
    client, turn = distributed.global_state.client, f"skald/{next(TURNS)}"
    client.key_value_set(f"{turn}/{number():06}", json.dumps(value))
    client.wait_at_barrier(turn, PATIENCE)
    return [json.loads(text) for _, text in sorted(client.key_value_dir_get(turn))]


def agreed(decide: Callable[[], T]) -> T:
    """What process 0 decides, on all: only it looks. What it raises ends all."""
    return gathered(decide() if number() == 0 else None)[0]


def first_then_others(make: Callable[[], T]) -> T:
    """`make` in process 0, and only then in the others: they find what it left, where they share its disk."""
    made = make() if number() == 0 else None
    gathered(None)
    return made if number() == 0 else make()


def watch() -> None:
    """From here on this process ends when any process calls `fail`, whatever its main thread waits for."""
    WATCHING.append(threading.Thread(target=end_when_told, daemon=True))
    WATCHING[0].start()


def part() -> None:
    """Leaves the others at a run's own end: waits until all have come so far."""
    if WATCHING:
        jax.distributed.shutdown()
        WATCHING[0].join()


def end_when_told() -> None:
    client = distributed.global_state.client
    try:
        status = int(client.blocking_key_value_get(FAILED, PATIENCE))
    except Exception:  # cancelled by the shutdown at a run's own end
        return
    with SPEAKING:
        with contextlib.suppress(Exception):  # one of them may be dead already
            client.wait_at_barrier(f"{FAILED}/all", FAREWELL)
        if number() == 0:
            time.sleep(0.5)  # the service dies with this process: the others' answers must be out
        sys.stderr.flush()
        os._exit(status)  # the main thread may wait for an array that never comes


def fail(status: int, line: str) -> None:
    """Prints the line, with this process's number, and ends all processes with this status: does not return.

    Where another process failed a moment earlier, its line was the one.
    """
    with SPEAKING, contextlib.suppress(jax.errors.JaxRuntimeError):  # raised where another has set it
        distributed.global_state.client.key_value_set(FAILED, str(status))
        print(f"skald{f' (process {number()})' if number() else ''}: {line}", file=sys.stderr, flush=True)
    WATCHING[0].join(2 * FAREWELL / 1000)
    os._exit(status)  # the service itself is gone
