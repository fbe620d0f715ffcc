"""Scores a model over a whole sequence of tokens. The loop's listener and `skald evaluate` call it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax
import numpy as np

from data.rows import Rows
from model.transformer import Transformer
from train import in_flight, loss
from train.feed import whole_rows


@jax.jit
def batch_sums(model: Transformer, rows: Rows):
    sums = loss.summed(model, rows)
    return sums.loss, sums.weight


def score(model: Transformer, batches: Iterable[Rows]) -> tuple[float, int]:
    """(mean loss in nats a token, tokens counted) over batches of rows [B, T]; sums in float64 on the host."""
    sums = in_flight.bounded_map(lambda rows: batch_sums(model, rows), map(whole_rows, batches))
    values = np.asarray(list(sums), np.float64)
    total, tokens = values.sum(0)
    return total / tokens, round(tokens)


def scores(loss_nats: float, tokens: int, size: int) -> dict:
    """The figures of `skald evaluate`: loss (nats a token), perplexity, bits a byte of `size` bytes of text."""
    return {
        "loss": loss_nats,
        "perplexity": math.exp(min(loss_nats, 700.0)),
        "bits_per_byte": loss_nats * tokens / (math.log(2) * size),
        "tokens": tokens,
        "bytes": size,
    }
