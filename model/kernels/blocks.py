"""The reference in blocks of queries, for long rows on CPU: a block is multiplied with the keys up to its end only.

Half the scores are never computed or held. model/kernels chooses it; delete this file and its name there, and only
speed changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.kernels import reference
from model.kernels.reference import AttentionMask
from model.kernels.shard_map import dropout_refusal, split_refusal

BLOCK = 256  # queries; rows no longer than this are the reference's


def refusal(query_BNTH, key_BKSH, mask: AttentionMask, weight_dropout) -> str | None:
    """Why blocks cannot compute this, and what to set instead; None where they can."""
    return split_refusal() or dropout_refusal(weight_dropout)


def attention(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None)) -> jax.Array:
    """The reference's context; `drop` is refused above."""
    length = query_BNTH.shape[2]
    mask_B1TS = mask.dense(length)
    parts = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        query, key, value = query_BNTH[:, :, start:end], key_BKSH[:, :, :end], value_BKSH[:, :, :end]
        parts.append(reference.masked_attention(query, key, value, mask_B1TS[:, :, start:end, :end]))
    return jnp.concatenate(parts, axis=2)
