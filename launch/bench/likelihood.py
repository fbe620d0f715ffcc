"""Speed of log-likelihoods: questions with two answers, by us and by lm-evaluation-harness's own Hugging Face model, in
turn, from the same checkpoint with random weights.

launch/commands/bench.py calls `measure` for `skald bench likelihood`; the peer is launch/bench/harness_peer.py.
"""

from __future__ import annotations

import importlib.resources
import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
import tokenizers

from data.config import Tokenizer as TokenizerConfig
from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from launch import VERSION
from launch.bench.peer import start_peers
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.export import export_checkpoint
from launch.inference.likelihood import encode_continuation, score_continuations
from model import config as c
from model.transformer import Transformer
from train import fields
from train.checkpoint import save_weights
from train.config import Experiment
from train.fields import ConfigError
from train.run import RunError

ITEMS = 1000  # questions, each with two answers
QUESTION, ANSWER = (60, 100), (1, 12)  # tokens, both ends included
PIECES, END = 8192, "<|endoftext|>"  # tokens of the tokenizer, at most, and the one between texts
LEAST_VOCABULARY = 257  # the bytes, and END
TOLERANCE = 1e-3  # nats a request, by which both sides may differ on the mean
SPEED = "requests_per_second"


def measure(experiment: Experiment, arguments: Namespace) -> dict:
    """Requests a second of both, texts in, log-likelihoods out; the ratio is that of the medians. Raises RunError where
    the two sides' log-likelihoods are not the same."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokenizer = train_tokenizer(folder, experiment.model.vocab_size)
        write_run(folder / "run", experiment.model, tokenizer)
        items = made_up_items(tokenizer, arguments.items or ITEMS)
        (folder / "items.json").write_text(json.dumps(items))
        sides: dict[str, Callable[[], dict]] = {}
        if arguments.against:
            export_checkpoint(str(folder / "run"), folder / "exported")
            case = {"folder": str(folder)}
            (peer,), _ = start_peers(arguments.against, arguments.what, fields.to_json(experiment), case)
            stack.callback(peer.close)
            sides[peer.name] = peer  # it tries its batch sizes now, and we do nothing beside it
        sides = {"Skald": task(LoadedCheckpoint(str(folder / "run")), items), **sides}
        warm = {name: run() for name, run in sides.items()}
        check_same(warm, 2 * len(items))
        runs = in_turn(sides, arguments.runs or 5)
    return {"what": "likelihood", "config": experiment.name, "items": len(items), **figures(runs)}


def check_vocabulary(experiment: Experiment) -> None:
    """Raises ConfigError where the model's vocabulary has no room for the tokenizer."""
    if experiment.model.vocab_size < LEAST_VOCABULARY:
        raise ConfigError(
            f"model.vocab_size {experiment.model.vocab_size}: this bench's tokenizer needs {LEAST_VOCABULARY} at least"
        )


def train_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """A tokenizer that has a Hugging Face file of its own, trained on Shakespeare."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=min(PIECES, vocab_size),
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(shakespeare().splitlines(keepends=True), trainer)
    content = json.loads(made.to_str())
    vocabulary = content["model"]["vocab"]  # as large as the model's: we leave out ids that no token has, the peer none
    vocabulary |= {f"unused{index}": index for index in range(len(vocabulary), vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return build_tokenizer(TokenizerConfig("json", str(folder / "tokenizer.json"), start=END, end=END), ())


def shakespeare() -> str:
    return (importlib.resources.files("data") / "corpora" / "tinyshakespeare.txt").read_text(encoding="utf-8")


def write_run(run: Path, model: c.Model, tokenizer: Tokenizer) -> None:
    """Writes a run with one checkpoint, of random weights."""
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0)))()
    metadata = {
        "version": VERSION,
        "model": fields.to_json(model),
        "config": None,
        "tokenizer": tokenizer.to_json(),
        "data": {},
        "trained_length": model.context,
        "huggingface": None,
    }
    save_weights(run / "checkpoints" / "0", weights, metadata)


def made_up_items(tokenizer: Tokenizer, count: int) -> list[tuple[str, list[str]]]:
    """Questions and their two answers, cut out of Shakespeare."""
    ids, random = tokenizer.encode(shakespeare()), np.random.default_rng(0)

    def piece(least: int, most: int) -> str:
        length = int(random.integers(least, most + 1))
        start = int(random.integers(0, len(ids) - length))
        return tokenizer.decode(ids[start : start + length])

    return [(piece(*QUESTION).strip(), [f" {piece(*ANSWER).strip()}." for _ in range(2)]) for _ in range(count)]


def task(run: LoadedCheckpoint, items: list[tuple[str, list[str]]]) -> Callable[[], dict]:
    """A function that scores all requests and returns their number a second and the sum of their nats."""

    def run_once() -> dict:
        start = time.perf_counter()
        pairs = [(question, answer) for question, answers in items for answer in answers]
        requests = [encode_continuation(run.tokenizer, *pair) for pair in pairs]
        nats = sum(score.nats for _, score in score_continuations(run, requests))
        return {SPEED: len(pairs) / (time.perf_counter() - start), "nats": nats}

    return run_once


def check_same(found: dict[str, dict], count: int) -> None:
    """Raises RunError where sides differ by more than TOLERANCE nats a request."""
    nats = {name: own["nats"] / count for name, own in found.items()}
    if max(nats.values()) - min(nats.values()) > TOLERANCE:
        shown = ", ".join(f"{name} {own:.6f}" for name, own in nats.items())
        raise RunError(f"the sides' log-likelihoods differ, in nats a request: {shown}")


def in_turn(sides: dict[str, Callable[[], dict]], count: int) -> dict[str, list[float]]:
    """Speeds of so many runs of each side; prints each turn's."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, count + 1):
        for name, run in sides.items():
            speeds[name].append(round(run()[SPEED], 2))
        line = "   ".join(f"{name} {own[-1]:,.1f}" for name, own in speeds.items())
        print(f"run {number}, requests/s: {line}", file=sys.stderr)
    return speeds


def figures(runs: dict[str, list[float]]) -> dict:
    (_, ours), *peers = runs.items()
    found = {SPEED: statistics.median(ours), "runs": ours}
    if peers:
        name, theirs = peers[0]
        against = {"name": name, SPEED: statistics.median(theirs), "runs": theirs}
        found |= {"against": against, "ratio": round(statistics.median(ours) / statistics.median(theirs), 3)}
    return found
