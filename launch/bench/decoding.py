"""Decoding speed of a config's shape with random weights: greedy, `new` tokens for each of `batch` prompts.

launch/commands/bench.py measures `task` and compares it with `limit`. A model's context is as long as prompt and new
tokens need: a run is one window.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from launch.bench.arrivals import Arrival, decoding_figures
from launch.bench.limits import compute_dtype, reading_rate
from launch.machine.auto import decoding_execution
from model import cost
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.transformer import Transformer
from train.config import Experiment

SPEED = "decoding_tokens_per_second"  # the figure that is held against the limit
PROMPT, NEW = 32, 128
LATENCY_PROMPTS, LATENCY_NEW = (16, 256, 1024), 32  # more new tokens than any decoder hands out at once


def cases(arguments: Namespace) -> list[dict]:
    if arguments.latency:
        return [{"batch": 1, "prompt": prompt, "new": LATENCY_NEW} for prompt in LATENCY_PROMPTS]
    return [{"batch": batch, "prompt": PROMPT, "new": NEW} for batch in arguments.batch or [1, 8]]


def task(experiment: Experiment, batch: int, prompt: int, new: int) -> Callable[[], dict[str, float]]:
    """A function that writes `new` tokens for each of `batch` random prompts and returns decoding_figures.

    A token has arrived when the caller of Generator.stream gets it, which is what a reader of the text waits for.
    """
    model = replace(experiment.model, context=max(experiment.model.context, prompt + new))
    execution = decoding_execution(experiment.execution)
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0), execution))()
    generator = Generator(weights, vocab_size=model.vocab_size, context=model.context)
    del weights
    inputs = np.random.default_rng(0).integers(0, model.vocab_size, (batch, prompt)).tolist()
    chain = parse_chain("greedy")

    def run_once() -> dict[str, float]:
        start, arrivals = time.perf_counter(), []
        for pieces in generator.stream(inputs, chain=chain, max_new_tokens=new):
            tokens = sum(len(piece.tokens) for piece in pieces)
            arrivals.append(Arrival(time.perf_counter() - start, tokens))
        return decoding_figures(arrivals, batch)

    return run_once


def limit(experiment: Experiment, batch: int, prompt: int, new: int) -> Callable[[], dict[str, float]]:
    """A function that returns the tokens a second if reading memory were all the work of decoding: for a token of all
    rows each weight once, as the decoder holds it, and the keys and values of the tokens before it, half of the new
    ones on the mean."""
    number_bytes = jnp.dtype(compute_dtype(experiment.execution)).itemsize
    cache_bytes = number_bytes if experiment.execution.cache == "plain" else 1
    step_bytes = number_bytes * cost.decoding_weights(experiment.model, batch)
    step_bytes -= saved_by_quantizing(experiment, number_bytes)
    step_bytes += cache_bytes * batch * cost.cached_numbers(experiment.model, prompt + new / 2)
    rate = reading_rate()
    return lambda: {SPEED: batch * rate() / step_bytes}


def saved_by_quantizing(experiment: Experiment, number_bytes: int) -> float:
    """Bytes that a decoder's weights in few bits take less than numbers of `number_bytes`."""
    execution = decoding_execution(experiment.execution)
    decoder = jax.eval_shape(lambda: Transformer(experiment.model, jax.random.key(0), execution).for_decoding())
    quantized = [leaf for leaf in jax.tree.leaves(decoder) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    return sum(leaf.size * (number_bytes - jnp.iinfo(leaf.dtype).bits / 8) for leaf in quantized)
