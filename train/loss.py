"""Cross-entropy over rows, in nats, and the terms that training adds. Used by train/step.py and train/evaluate.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data.rows import Rows
from model.layers import at_least_float32
from model.sharding import join_within_shards, largest_divisor, shard_count, split_within_shards
from model.transformer import Transformer


class TrainingSums(NamedTuple):
    """Sums over rows: losses (nats), the weights of what has a loss (tokens, or preference pairs), the added terms
    (z-loss, mixture penalties), and further metrics by name, which are divided by the weights, too."""

    loss: jax.Array
    weight: jax.Array
    added: jax.Array
    metrics: dict[str, jax.Array]


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p(target) in nats, logsumexp of the logits) of every position, float32 [B, T].

    The target's logit is a sum over the vocabulary, so that logits may be split along it.
    """
    logits_BTV = at_least_float32(logits_BTV)
    is_target = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    logsumexp_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return logsumexp_BT - jnp.where(is_target, logits_BTV, 0).sum(-1), logsumexp_BT


def losses_and_mean_logits(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`token_losses`, and the mean of each position's logits, float32 [B, T]: what label smoothing takes."""
    return *token_losses(logits_BTV, targets_BT), at_least_float32(logits_BTV).mean(-1)


def chunked_losses(model: Transformer, hidden_BTD: jax.Array, targets_BT: jax.Array, score: Callable = token_losses):
    """`score` of hidden states' logits, one chunk of time after another: forward and backward hold one chunk's logits.
    Each device cuts its own time, into fewer chunks where their number does not divide it (a window that is scored)."""
    chunks = largest_divisor(targets_BT.shape[1] // shard_count("time"), model.execution.loss_chunks)
    if chunks == 1:
        return score(model.logits(hidden_BTD), targets_BT)
    project = model.output_projection(hidden_BTD.dtype)

    @jax.checkpoint
    def chunk_losses(chunk):
        hidden_BTD, targets_BT = chunk
        return score(project(hidden_BTD), targets_BT)

    parts = (split_within_shards(hidden_BTD, 1, chunks, "time"), split_within_shards(targets_BT, 1, chunks, "time"))
    return jax.tree.map(lambda x: join_within_shards(x, 1, "time"), jax.lax.map(chunk_losses, parts))


def sum_losses(
    model: Transformer, rows: Rows, key: jax.Array | None = None, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> TrainingSums:
    """The sums over rows [B, T]; a `key` turns dropout on. A row's penalties are weighted by the sum of its weights.

    What `label_smoothing` makes of a loss, (1 - e) * loss + e * mean over the vocabulary of -log p (Szegedy et al.
    2016, section 7), is the loss itself and a term that is added."""
    stream = model.residual_stream(rows.tokens, rows.segments, rows.positions, key)
    score = losses_and_mean_logits if label_smoothing else token_losses
    losses_BT, logsumexp_BT, *mean_logits_BT = chunked_losses(model, stream.x_BTD, rows.targets, score)
    added = (
        z_loss * (jnp.square(logsumexp_BT) * rows.weights).sum()
        + (stream.auxiliary_loss_B * rows.weights.sum(-1)).sum()
    )
    for mean_BT in mean_logits_BT:
        added += label_smoothing * ((logsumexp_BT - mean_BT - losses_BT) * rows.weights).sum()
    return TrainingSums((losses_BT * rows.weights).sum(), rows.weights.sum(), added, {})
