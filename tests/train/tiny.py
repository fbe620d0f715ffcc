"""A tiny experiment with everything in it, and random rows for it: shared by the tests of training."""

from dataclasses import replace

import jax
import numpy as np

from data.config import Data, Source, Tokenizer
from data.rows import Rows
from model.config import MLP, Attention, Block, Execution, Init, Model, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule

VOCAB, LENGTH, BATCH = 32, 16, 8
BLOCK = Block(Attention(4, 2, 8, rope=Rope(), query_key_norm=Norm(), bias=True), MLP(64, gated=True), token_shift=0.5)


def experiment(block: Block = BLOCK, layers: int = 2, **fields) -> Experiment:
    made = Experiment(
        name="tiny",
        model=Model(VOCAB, 32, LENGTH, (Stack((block,), layers),), init=Init(residual=0.2)),
        data=Data(Source("nothing"), Tokenizer("bytes"), LENGTH),
        optimizer=Optimizer(0.01, AdamW(), Schedule("constant")),
        steps=10,
        batch_size=BATCH,
        evaluation=Evaluation(every=5),
        checkpoints=Checkpoints(every=5),
        execution=Execution(),
    )
    return replace(made, **fields)


def rows(steps: int, microbatches: int = 1, seed: int = 0, batch: int = BATCH) -> Rows:
    """Packed documents: rows [steps, M, B / M, T], some weights 0."""
    random = np.random.default_rng(seed)
    shape = (steps, microbatches, batch // microbatches, LENGTH)
    new = random.random(shape) < 0.15
    new[..., 0] = True
    segments = np.cumsum(new, axis=-1).astype(np.int32)
    column = np.arange(LENGTH)
    positions = (column - np.maximum.accumulate(np.where(new, column, 0), axis=-1)).astype(np.int32)
    tokens, targets = (random.integers(0, VOCAB, shape).astype(np.int32) for _ in range(2))
    return Rows(tokens, targets, segments, positions, (random.random(shape) < 0.9).astype(np.float32))


def one_step(rows: Rows) -> Rows:
    """The first step's rows [M, B, T]."""
    return jax.tree.map(lambda x: x[0], rows)


def distance(found, expected) -> float:
    """The largest difference of two trees' arrays, relative to each array's norm."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(relative(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
