"""Speed of the data pipeline of a config: rows from a prepared store, all five arrays, without a device.

launch/commands/bench.py measures `task` and compares it with `limit`.
"""

from __future__ import annotations

import time
import timeit
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.pipeline import Pipeline, open_pipeline
from data.rows import Rows
from launch.machine.detection import cache_folder
from train.config import Experiment

SPEED = "tokens_per_second"  # the figure that is held against the limit
SECONDS = 2.0  # of a counted run, by default
BATCH, LENGTH = 256, 2048  # by default
BYTES_A_TOKEN = 2 + 5 * 4  # read once as stored, written once to each array of Rows


def cases(arguments: Namespace) -> list[dict]:
    shape = {"length": arguments.length or LENGTH, "seconds": arguments.seconds or SECONDS}
    return [{"batch": batch, **shape} for batch in arguments.batch or [BATCH]]


def open_data(experiment: Experiment, batch: int, length: int) -> Pipeline:
    """The config's data in rows of `length`; prepares its store where the cache does not have it."""
    return open_pipeline(replace(experiment.data, length=length), batch, experiment.seed, cache_folder())


def task(experiment: Experiment, batch: int, length: int, seconds: float) -> Callable[[], dict[str, float]]:
    """A function that makes batch after batch for about `seconds` and returns tokens a second.

    In one thread, as train/prefetch.py does: NumPy in several threads of one process waits for Python's lock.
    """
    data, step = open_data(experiment, batch, length), 0

    def run_once() -> dict[str, float]:
        nonlocal step
        start, first = time.perf_counter(), step
        while time.perf_counter() - start < seconds:
            data.rows(step, 0, batch)
            step += 1
        return {SPEED: (step - first) * batch * length / (time.perf_counter() - start)}

    return run_once


def limit(experiment: Experiment, batch: int, length: int, seconds: float) -> Callable[[], dict[str, float]]:
    """A function that returns the tokens a second at which memory can be read and written, each byte once, best of
    several copies."""
    del experiment, seconds
    source = np.ones(batch * length * BYTES_A_TOKEN, np.uint8)
    target = np.empty_like(source)

    def run_once() -> dict[str, float]:
        best = min(timeit.repeat(lambda: np.copyto(target, source), number=1, repeat=20))
        return {SPEED: batch * length / best}

    return run_once


def packed_rows(experiment: Experiment, batch: int, length: int, count: int) -> Rows:
    """The first `count` rows of the run: what a peer is given to read."""
    data = open_data(experiment, batch, length)
    parts = [data.rows(step, 0, batch) for step in range(-(-count // batch))]
    return Rows(*(np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)))
