"""The reference in blocks of queries, for long rows on CPU: each block is multiplied only with the keys up to its end.

So half the scores are never computed or stored. model/kernels chooses it; delete this file and its name there, and
only speed changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.kernels import reference
from model.kernels.reference import AttentionMask
from model.kernels.shard_map import dropout_refusal, split_refusal

BLOCK = 256  # queries; shorter rows, and rows of this length, are left to the reference


def refusal(query_BNTH, key_BKSH, mask: AttentionMask, weight_dropout) -> str | None:
    """Why blocks cannot compute this, and what to set instead; None where they can."""
    return split_refusal() or dropout_refusal(weight_dropout)


def attention(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None)) -> jax.Array:
    """The reference's context; `refusal` rejects dropout."""
    length = query_BNTH.shape[2]
    mask_B1TS = mask.dense(length)
    contexts = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        query, key, value = query_BNTH[:, :, start:end], key_BKSH[:, :, :end], value_BKSH[:, :, :end]
        contexts.append(reference.masked_attention(query, key, value, mask_B1TS[:, :, start:end, :end]))
    return jnp.concatenate(contexts, axis=2)
