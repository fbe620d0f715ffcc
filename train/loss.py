"""Cross-entropy over rows, in nats. Used by train/step.py and train/evaluate.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from data.rows import Rows
from model.transformer import Transformer


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p(target) of every position, float32 [B, T], in nats.

    Written as a sum over the vocabulary, so that logits may be split along it.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    chosen = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - jnp.where(chosen, logits_BTV, 0).sum(-1)


def summed(model: Transformer, rows: Rows, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """(sum of weighted token losses, sum of weights) over rows [B, T]; `key` turns dropout on."""
    stream = model.stream(rows.tokens, rows.segments, rows.positions, key)
    losses_BT = token_losses(model.logits(stream.x_BTD), rows.targets)
    return (losses_BT * rows.weights).sum(), rows.weights.sum()
