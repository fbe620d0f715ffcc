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
from launch.machine.auto import make_program
from launch.machine.detection import cache_folder
from model import cost
from train.check import check, check_vocabulary
from train.config import Experiment
from train.loop import train
from train.run import Run

SECONDS = 4.0  # of a counted run, about


def cases(arguments: Namespace) -> list[dict]:
    return [{"batch": arguments.experiment.batch_size}]


def task(experiment: Experiment, batch: int, listeners: Sequence[Callable] = ()) -> Callable[[], float]:
    """A function that goes on training for about SECONDS and returns tokens a second."""
    e = replace(experiment, batch_size=batch, steps=10**9)  # no pause falls into a run
    e = replace(e, evaluation=replace(e.evaluation, every=10**9), checkpoints=replace(e.checkpoints, every=10**9))
    check(e)
    data = open_pipeline(e.data, e.batch_size, e.seed, cache_folder())
    check_vocabulary(e, data.tokenizer.vocab_size)
    run = Run(make_program(e), Path(), data, listeners)
    run.state = run.create_state()
    size = [2 * run.next_count()]

    def run_once() -> float:
        first, run.step = run.step, 0
        run.experiment = replace(run.experiment, steps=size[0])
        start = time.perf_counter()
        train(run)
        jax.block_until_ready(run.state)
        seconds = time.perf_counter() - start
        done, run.step = run.step, first + run.step
        size[0] = max(1, round(SECONDS / seconds * done / size[0])) * size[0] if first == 0 else size[0]
        return done * e.batch_size * e.data.length / seconds

    run_once()
    return run_once


def limit(experiment: Experiment, batch: int) -> float:
    """Tokens a second at the rate of a large float32 matrix product on this machine, best of several."""
    size, best = 1024, float("inf")
    a = jnp.ones((size, size))
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    for _ in range(20):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    e = experiment
    return 2 * size**3 / best / cost.training_flops(e.model, e.data.length, e.lora is not None)
