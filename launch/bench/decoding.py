"""The decoding speed of a config's shape with random weights: greedy, prompts of PROMPT tokens, NEW more each."""

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
    """The same for us and a peer."""
    return np.random.default_rng(0).integers(0, vocab_size, (batch, PROMPT)).tolist()


def task(experiment: Experiment, batch: int):
    """A function that writes NEW tokens for each of `batch` prompts and returns tokens a second, prefill included."""
    model = experiment.model
    execution = decoding_execution(replace(experiment.execution, dtype="float32"))
    made = jax.jit(lambda: Transformer(model, jax.random.key(0), execution))()
    generator = Generator(made, vocab_size=model.vocab_size, context=model.context)
    del made
    given, chain = prompts(model.vocab_size, batch), parse_chain("greedy")

    def once() -> float:
        start = time.perf_counter()
        rows = generator.generate(given, chain=chain, max_new_tokens=NEW)
        return sum(len(row.tokens) for row in rows) / (time.perf_counter() - start)

    return once


def limit(experiment: Experiment, batch: int) -> float:
    """Tokens a second if every token read each weight once and nothing else took time: at the rate at which this
    machine sums an array larger than its caches, best of several."""
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
