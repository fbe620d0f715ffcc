"""Training speed of a config: the loop of train/loop.py on real rows, without listeners.

launch/commands/bench.py measures `task` and compares it with `limit`.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from data.pipeline import open_pipeline
from launch.bench.timing import seconds_of
from launch.machine.auto import make_program
from launch.machine.detection import cache_folder
from model import cost
from train.check import check, check_vocabulary
from train.config import Experiment
from train.loop import train
from train.run import Run

SPEED = "tokens_per_second"  # the figure that is held against the limit
SECONDS = 4.0  # of a counted run, by default


def cases(arguments: Namespace) -> list[dict]:
    return [{"batch": arguments.experiment.batch_size, "seconds": arguments.seconds or SECONDS}]


def task(
    experiment: Experiment, batch: int, seconds: float, listeners: Sequence[Callable] = ()
) -> Callable[[], dict[str, float]]:
    """A function that goes on training for about `seconds` and returns tokens a second."""
    e = replace(experiment, batch_size=batch, steps=10**9)  # no pause falls into a run
    e = replace(e, evaluation=replace(e.evaluation, every=10**9), checkpoints=replace(e.checkpoints, every=10**9))
    check(e)
    data = open_pipeline(e.data, e.batch_size, e.seed, cache_folder())
    check_vocabulary(e, data.tokenizer.vocab_size)
    run = Run(make_program(e), Path(), data, listeners)
    run.state = run.create_state()
    size = [2 * run.next_count()]

    def run_once() -> dict[str, float]:
        first, run.step = run.step, 0
        run.experiment = replace(run.experiment, steps=size[0])
        start = time.perf_counter()
        train(run)
        jax.block_until_ready(run.state)
        taken = time.perf_counter() - start
        done, run.step = run.step, first + run.step
        size[0] = max(1, round(seconds / taken * done / size[0])) * size[0] if first == 0 else size[0]
        return {SPEED: done * e.batch_size * e.data.length / taken}

    run_once()
    return run_once


def limit(experiment: Experiment, batch: int, seconds: float) -> Callable[[], dict[str, float]]:
    """A function that returns the tokens a second at the rate of a large float32 matrix product on this machine, best
    of several."""
    del batch, seconds
    size, e = 1024, experiment
    a = jnp.ones((size, size))
    multiply = jax.jit(lambda a: a @ a)
    flops = cost.training_flops(e.model, e.data.length, e.lora is not None)  # a token

    def run_once() -> dict[str, float]:
        best = min(seconds_of(lambda: multiply(a).block_until_ready()) for _ in range(20))
        return {SPEED: 2 * size**3 / best / flops}

    return run_once
