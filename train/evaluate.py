"""Scores a model over documents. The loop's listener and `skald evaluate` call it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from data.rows import ScoredRows
from model.transformer import Transformer
from train import in_flight, loss
from train.feed import shard_rows


class LossSums(NamedTuple):
    """Sums over targets, in nats: all of them, how many they are, and those that stand for text."""

    nats: float
    tokens: int
    text_nats: float


@jax.jit
def batch_sums(model: Transformer, given: ScoredRows) -> LossSums:
    rows = given.rows
    hidden_BTD = model.hidden(rows.tokens, rows.segments, rows.positions)
    losses_BT, _ = loss.chunked_losses(model, hidden_BTD, rows.targets)
    return LossSums((losses_BT * rows.weights).sum(), rows.weights.sum(), (losses_BT * given.text).sum())


def sums_by_batch(model: Transformer, batches: Iterable[ScoredRows]) -> Iterator[LossSums]:
    """Of each batch of rows [B, T], as they are computed."""
    return in_flight.bounded_map(lambda rows: batch_sums(model, rows), map(shard_rows, batches))


def add_up(sums: Iterable[LossSums]) -> LossSums:
    """Of all batches; added in float64 on the host."""
    nats, tokens, text_nats = np.asarray(list(sums), np.float64).sum(0)
    return LossSums(nats, round(tokens), text_nats)


def score_model(model: Transformer, batches: Iterable[ScoredRows]) -> LossSums:
    """`total` of `sums`."""
    return add_up(sums_by_batch(model, batches))


def metrics(found: LossSums, size: int) -> dict:
    """The figures of `skald evaluate`: loss (nats a token, end tokens among them), perplexity, bits a byte.

    Bits a byte divide the losses of text by its `size` bytes: an end token stands for none, and does not count in them.
    """
    mean = found.nats / found.tokens
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "bits_per_byte": found.text_nats / (math.log(2) * size),
        "tokens": found.tokens,
        "bytes": size,
    }
