"""Cross-entropy over rows, in nats, and what training adds to it. Used by train/step.py and train/evaluate.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from data.rows import Rows
from model.layers import precise
from model.sharding import divisor, joined, shards, split
from model.transformer import Transformer


class Sums(NamedTuple):
    """Over rows: the weighted token losses (nats), their weights, and what training adds: z-loss and penalties."""

    loss: jax.Array
    weight: jax.Array
    added: jax.Array


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), logsumexp of the logits) of every position, float32 [B, T], in nats.

    Written as a sum over the vocabulary, so that logits may be split along it.
    """
    logits_BTV = precise(logits_BTV)
    chosen = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return total_BT - jnp.where(chosen, logits_BTV, 0).sum(-1), total_BT


def chunked_losses(model: Transformer, hidden_BTD: jax.Array, targets_BT: jax.Array):
    """`token_losses` of hidden states, a part of every row's time at once: forward and backward hold the logits of one
    part only. Each device cuts its own time: into fewer parts where it does not divide (a window that is scored)."""
    chunks = divisor(targets_BT.shape[1] // shards("time"), model.execution.loss_chunks)
    if chunks == 1:
        return token_losses(model.logits(hidden_BTD), targets_BT)
    project = model.projection(hidden_BTD.dtype)

    @jax.checkpoint
    def one(part):
        hidden_BTD, targets_BT = part
        return token_losses(project(hidden_BTD), targets_BT)

    parts = (split(hidden_BTD, 1, chunks, "time"), split(targets_BT, 1, chunks, "time"))
    return jax.tree.map(lambda x: joined(x, 1, "time"), jax.lax.map(one, parts))


def summed(model: Transformer, rows: Rows, key: jax.Array | None = None, z_loss: float = 0.0) -> Sums:
    """Sums over rows [B, T]; `key` turns dropout on. A row's penalties count as often as it has weights."""
    stream = model.stream(rows.tokens, rows.segments, rows.positions, key)
    losses_BT, total_BT = chunked_losses(model, stream.x_BTD, rows.targets)
    added = z_loss * (jnp.square(total_BT) * rows.weights).sum() + (stream.penalty_B * rows.weights.sum(-1)).sum()
    return Sums((losses_BT * rows.weights).sum(), rows.weights.sum(), added)
