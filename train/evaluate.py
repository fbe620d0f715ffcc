"""Scores a model over documents. train/listeners/evaluation.py and `skald evaluate` call it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from data.rows import Rows, ScoredRows
from model.transformer import Transformer
from train import in_flight, loss
from train.feed import shard_rows


class LossSums(NamedTuple):
    """Sums over targets: of their losses in nats, their number, and the losses of those that stand for text."""

    nats: float
    tokens: int
    text_nats: float


def add_losses(model: Transformer, batch: ScoredRows) -> LossSums:
    """The sums over one batch of rows [B, T], traceable."""
    rows = batch.rows
    hidden_BTD = model.hidden(rows.tokens, rows.segments, rows.positions)
    losses_BT, _ = loss.chunked_losses(model, hidden_BTD, rows.targets)
    return LossSums((losses_BT * rows.weights).sum(), rows.weights.sum(), (losses_BT * batch.text).sum())


batch_sums = jax.jit(add_losses)


def sums_by_batch(
    model: Transformer, batches: Iterable[ScoredRows | Rows], compute: Callable | None = None
) -> Iterator:
    """Yields the sums of each batch of rows [B, T], as they are computed by `compute`, or else by `batch_sums`."""
    compute = compute or batch_sums
    return in_flight.bounded_map(lambda rows: compute(model, rows), map(shard_rows, batches))


def add_up(sums: Iterable[LossSums]) -> LossSums:
    """The sums of all batches together, added in float64 on the host."""
    nats, tokens, text_nats = np.asarray(list(sums), np.float64).sum(0)
    return LossSums(nats, round(tokens), text_nats)


def metrics(sums: LossSums, text_bytes: int) -> dict:
    """The metrics of `skald evaluate`, from sums over a text: loss (nats a token), perplexity, bits a byte.

    The loss counts end tokens. Bits a byte divide the losses of text alone by its bytes: end tokens stand for none.
    """
    mean = sums.nats / sums.tokens
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "bits_per_byte": sums.text_nats / (math.log(2) * text_bytes),
        "tokens": sums.tokens,
        "bytes": text_bytes,
    }
