"""Decoding speed of a config's shape with random weights: greedy, PROMPT tokens of prompt, NEW more for each.

launch/commands/bench.py measures `task` and compares it with `limit`.
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from launch.machine.auto import decoding_execution
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.transformer import Transformer, abstract_model
from train.config import Experiment

PROMPT, NEW = 32, 128


def cases(arguments: Namespace) -> list[dict]:
    return [{"batch": batch} for batch in arguments.batch or [1, 8]]


def prompts(vocab_size: int, batch: int) -> list[list[int]]:
    """Random prompts, the same for us and for a peer."""
    return np.random.default_rng(0).integers(0, vocab_size, (batch, PROMPT)).tolist()


def task(experiment: Experiment, batch: int):
    """A function that writes NEW tokens for each of `batch` prompts and returns tokens a second, prefill included."""
    model = experiment.model
    execution = decoding_execution(replace(experiment.execution, dtype="float32"))
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0), execution))()
    generator = Generator(weights, vocab_size=model.vocab_size, context=model.context)
    del weights
    inputs, chain = prompts(model.vocab_size, batch), parse_chain("greedy")

    def run_once() -> float:
        start = time.perf_counter()
        rows = generator.generate(inputs, chain=chain, max_new_tokens=NEW)
        return sum(len(row.tokens) for row in rows) / (time.perf_counter() - start)

    return run_once


def limit(experiment: Experiment, batch: int) -> float:
    """Tokens a second if reading each weight once a token were all the work.

    The rate of reading: the best of several sums over an array larger than the caches.
    """
    size, best = 1 << 26, float("inf")
    a = jnp.ones(size)
    total = jax.jit(jnp.sum)
    total(a).block_until_ready()
    for _ in range(10):
        start = time.perf_counter()
        total(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    shapes = abstract_model(experiment.model)
    blocks = sum(x.size for x in jax.tree.leaves(shapes.stacks)) + experiment.model.width * experiment.model.vocab_size
    return batch * size / best / blocks
