"""Cross-entropy over rows, in nats, and what training adds to it. Used by train/step.py and train/evaluate.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from data.rows import Rows
from model.layers import at_least_float32
from model.sharding import join_within_shards, largest_divisor, shard_count, split_within_shards
from model.transformer import Transformer


class TrainingSums(NamedTuple):
    """Over rows: the weighted token losses (nats), their weights, and what training adds: z-loss and penalties."""

    loss: jax.Array
    weight: jax.Array
    added: jax.Array


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), logsumexp of the logits) of every position, float32 [B, T], in nats.

    Written as a sum over the vocabulary, so that logits may be split along it.
    """
    logits_BTV = at_least_float32(logits_BTV)
    chosen = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return total_BT - jnp.where(chosen, logits_BTV, 0).sum(-1), total_BT


def chunked_losses(model: Transformer, hidden_BTD: jax.Array, targets_BT: jax.Array):
    """`token_losses` of hidden states, a part of every row's time at once: forward and backward hold the logits of one
    part only. Each device cuts its own time: into fewer parts where it does not divide (a window that is scored)."""
    chunks = largest_divisor(targets_BT.shape[1] // shard_count("time"), model.execution.loss_chunks)
    if chunks == 1:
        return token_losses(model.logits(hidden_BTD), targets_BT)
    project = model.output_projection(hidden_BTD.dtype)

    @jax.checkpoint
    def one(part):
        hidden_BTD, targets_BT = part
        return token_losses(project(hidden_BTD), targets_BT)

    parts = (split_within_shards(hidden_BTD, 1, chunks, "time"), split_within_shards(targets_BT, 1, chunks, "time"))
    return jax.tree.map(lambda x: join_within_shards(x, 1, "time"), jax.lax.map(one, parts))


def sum_losses(model: Transformer, rows: Rows, key: jax.Array | None = None, z_loss: float = 0.0) -> TrainingSums:
    """Sums over rows [B, T]; `key` turns dropout on. A row's penalties count as often as it has weights."""
    stream = model.residual_stream(rows.tokens, rows.segments, rows.positions, key)
    losses_BT, total_BT = chunked_losses(model, stream.x_BTD, rows.targets)
    added = (
        z_loss * (jnp.square(total_BT) * rows.weights).sum() + (stream.auxiliary_loss_B * rows.weights.sum(-1)).sum()
    )
    return TrainingSums((losses_BT * rows.weights).sum(), rows.weights.sum(), added)
