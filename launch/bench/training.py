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

from data.pipeline import open_pipeline
from launch.bench.limits import matmul_rate
from launch.machine import auto
from launch.machine.detection import cache_folder
from train.check import check, check_vocabulary
from train.config import Experiment
from train.loop import train
from train.objective import training_flops
from train.run import Run

SPEED = "tokens_per_second"  # the figure that is held against the limit
SECONDS = 4.0  # of a counted run, by default


def cases(arguments: Namespace) -> list[dict]:
    return [{"batch": arguments.experiment.batch_size, "seconds": arguments.seconds or SECONDS}]


def task(
    experiment: Experiment, batch: int, seconds: float, listeners: Sequence[Callable] = ()
) -> Callable[[], dict[str, float]]:
    """A function that goes on training for about `seconds` and returns tokens a second. Its program is compiled."""
    e = replace(experiment, batch_size=batch, steps=10**9)  # no pause falls into a run
    e = replace(e, evaluation=replace(e.evaluation, every=10**9), checkpoints=replace(e.checkpoints, every=10**9))
    check(e)
    data = open_pipeline(e.data, e.batch_size, e.seed, cache_folder())
    check_vocabulary(e, data.tokenizer.vocab_size)
    run = Run(auto.make_program(e), Path(), data, listeners)
    run.state = run.create_state()

    def seconds_of_steps(steps: int) -> float:
        done, run.step = run.step, 0
        run.experiment = replace(run.experiment, steps=steps)
        start = time.perf_counter()
        train(run)
        jax.block_until_ready(run.state)
        run.step += done
        return time.perf_counter() - start

    few = 2 * run.next_count()
    seconds_of_steps(few)  # compiles
    steps = few * max(1, round(seconds / seconds_of_steps(few)))
    return lambda: {SPEED: steps * e.batch_size * e.data.length / seconds_of_steps(steps)}


def limit(experiment: Experiment, batch: int, seconds: float) -> Callable[[], dict[str, float]]:
    """A function that returns the tokens a second if large matrix products, in the number format of this training, were
    all the work."""
    del batch, seconds
    e, rate = experiment, matmul_rate(product_dtype(experiment))
    flops = training_flops(e)  # a token
    return lambda: {SPEED: rate() / flops}


def product_dtype(experiment: Experiment) -> str:
    """The number format of this training's products."""
    execution = auto.resolve(experiment, jax.local_devices()[0], jax.device_count()).execution
    return execution.dtype if execution.precision == "default" else execution.precision
