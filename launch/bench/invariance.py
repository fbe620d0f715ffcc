"""The price of invariant mode: the same requests through an engine in fast mode and in invariant mode, in one run.

launch/commands/bench.py calls `measure` for `skald bench decode --invariant`.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from launch.machine.auto import decoding_execution
from model.decode.chain import parse_chain
from model.decode.engine import Engine, Request
from model.transformer import Transformer
from train.config import Experiment

PROMPT, NEW = 32, 32  # tokens of a request


def measure(experiment: Experiment, arguments: Namespace) -> dict:
    """Tokens a second of both modes, prompts included, for each number of requests at once; and the tile."""
    model, sizes = experiment.model, arguments.batch or [1, 16]
    execution = decoding_execution(replace(experiment.execution, dtype="float32"))
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0), execution))()
    pages = 2 + max(*sizes, 8) * -(-(PROMPT + NEW) // 16)
    shape = {"vocab_size": model.vocab_size, "context": model.context, "slots": max(sizes), "pages": pages}
    fast, invariant = Engine(weights, **shape), Engine(weights, **shape, invariant=True)
    del weights
    cases = [measure_case(fast, invariant, model, size, arguments.runs or 3) for size in sizes]
    return {"what": "invariant", "config": experiment.name, "tile": str(invariant.decoding.tile), "cases": cases}


def measure_case(fast: Engine, invariant: Engine, model, size: int, runs: int) -> dict:
    """Both modes in turn, so many requests at once."""
    speeds, peer_speeds = [], []
    for number in range(runs + 1):
        given = requests(model, size, number)
        speed, peer_speed = serve(invariant, given), serve(fast, given)
        if number:  # the first compiles
            speeds.append(speed), peer_speeds.append(peer_speed)
            print(f"run {number}: invariant {speed:,.1f} tokens/s   fast {peer_speed:,.1f}", file=sys.stderr)
    speed, peer_speed = statistics.median(speeds), statistics.median(peer_speeds)
    return {
        "batch": size,
        "tokens_per_second": round(speed, 1),
        "against": {"name": "fast mode", "tokens_per_second": round(peer_speed, 1), "runs": peer_speeds},
        "ratio": round(speed / peer_speed, 3),
        "runs": speeds,
    }


def requests(model, size: int, run: int) -> list[Request]:
    """Random prompts, others in every run; draws at temperature 1."""
    random, chain = np.random.default_rng(run), parse_chain("temperature=1")
    length = min(PROMPT, model.context - 1)
    return [
        Request(random.integers(0, model.vocab_size, length).tolist(), chain, NEW, seed=index) for index in range(size)
    ]


def serve(engine: Engine, requests: Sequence[Request]) -> float:
    """Writes all requests, submitted at once: new tokens a second."""
    start = time.perf_counter()
    tokens = sum(len(piece.tokens) for _, piece in engine.run(requests))
    return round(tokens / (time.perf_counter() - start), 1)
