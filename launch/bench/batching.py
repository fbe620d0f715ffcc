"""Continuous batching: 64 requests of mixed lengths through the engine, and the same 64 one after another.

launch/commands/bench.py calls `measure` for `skald bench decode --engine`.
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
from model.decode.generate import Generator
from model.decode.parameters import power_of_two
from model.transformer import Transformer
from train.config import Experiment

REQUESTS, PROMPT, NEW = 64, (8, 128), (16, 128)  # of so many tokens, both ends included


def measure(experiment: Experiment, arguments: Namespace) -> dict:
    """Tokens a second of both, in turn in one process, the time to a request's first token, programs, pages found."""
    model = experiment.model
    execution = decoding_execution(replace(experiment.execution, dtype="float32"))
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0), execution))()
    context = {"vocab_size": model.vocab_size, "context": model.context}
    pages = 1 + REQUESTS * -(-min(model.context, PROMPT[1] + NEW[1]) // 16)
    engine, generator = Engine(weights, **context, slots=REQUESTS, pages=pages), Generator(weights, **context)
    del weights
    serve(engine, requests(model, 0))  # compilation and first touches, not counted
    compile_shapes(generator, requests(model, 0))
    runs, peer_runs, first_tokens = [], [], []
    for number in range(1, (arguments.runs or 1) + 1):
        speed, seconds = serve(engine, requests(model, number))
        runs.append(speed)
        first_tokens += seconds
        peer_runs.append(one_after_another(generator, requests(model, number)))
        print(f"run {number}: {runs[-1]:,.1f} tokens/s   one after another {peer_runs[-1]:,.1f}", file=sys.stderr)
    programs = engine.programs
    read, found = engine.tokens_read, engine.tokens_found
    serve(engine, requests(model, number))  # known by now
    speed, peer_speed = statistics.median(runs), statistics.median(peer_runs)
    return {
        "what": "engine",
        "config": experiment.name,
        "batch": REQUESTS,
        "tokens_per_second": round(speed, 1),
        "against": {"name": "one after another", "tokens_per_second": round(peer_speed, 1), "runs": peer_runs},
        "ratio": round(speed / peer_speed, 3),
        "runs": runs,
        "first_token_seconds": {str(share): round(np.percentile(first_tokens, share), 3) for share in (50, 99)},
        "programs": programs,
        "again": {"tokens_read": engine.tokens_read - read, "tokens_found": engine.tokens_found - found},
    }


def requests(model, run: int) -> list[Request]:
    """Requests of the same lengths in every run, whose prompts no run shares with another."""
    lengths, tokens = np.random.default_rng(0), np.random.default_rng(run)
    chain, made = parse_chain("greedy"), []
    for _ in range(REQUESTS):
        length, new = (int(lengths.integers(least, most + 1)) for least, most in (PROMPT, NEW))
        length = min(length, model.context - 1)
        made.append(Request(tokens.integers(0, model.vocab_size, length).tolist(), chain, new))
    return made


def serve(engine: Engine, requests: Sequence[Request]) -> tuple[float, list[float]]:
    """Writes all requests, submitted at once: tokens a second, and the seconds until each one's first token."""
    start, tokens, first = time.perf_counter(), 0, {}
    for index, piece in engine.run(requests):
        tokens += len(piece.tokens)
        first.setdefault(index, time.perf_counter() - start)
    return round(tokens / (time.perf_counter() - start), 1), list(first.values())


def one_after_another(generator: Generator, requests: Sequence[Request]) -> float:
    """Tokens a second of the same requests, each begun when the one before is finished."""
    start, tokens = time.perf_counter(), 0
    for request in requests:
        (row,) = generator.generate([request.prompt], chain=request.chain, max_new_tokens=request.max_new_tokens)
        tokens += len(row.tokens)
    return round(tokens / (time.perf_counter() - start), 1)


def compile_shapes(generator: Generator, requests: Sequence[Request]) -> None:
    """Compiles all that `one_after_another` is going to run: one dispatch of every shape."""
    seen = set()
    for request in requests:
        length = len(request.prompt)
        shape = power_of_two(length - 1), -(-(length + request.max_new_tokens) // 64)
        if shape not in seen:
            seen.add(shape)
            next(generator.stream([request.prompt], chain=request.chain, max_new_tokens=request.max_new_tokens))
