"""The reference in blocks of queries, for long rows on CPU: each block is multiplied only with the keys up to its end.

So half the scores, and with a window more, are never computed or stored. model/kernels chooses it; delete this file and
its name there, and only speed changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.kernels import reference
from model.kernels.reference import AttentionMask
from model.kernels.shard_map import dropout_refusal, split_refusal

BLOCK = 256  # queries; shorter rows, and rows of this length, are left to the reference


def refusal(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout, score_cap) -> str | None:
    """Why blocks cannot compute this, and what to set instead; None where they can."""
    return split_refusal() or dropout_refusal(weight_dropout)


def attention(
    query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None), score_cap: float | None = None
) -> jax.Array:
    """The reference's context; `refusal` rejects dropout."""
    length = query_BNTH.shape[2]
    mask_B1TS = mask.dense(length)
    contexts = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        first = 0 if mask.window is None else max(0, start - mask.window + 1)  # the first key that any of them sees
        query, key, value = query_BNTH[:, :, start:end], key_BKSH[:, :, first:end], value_BKSH[:, :, first:end]
        block_mask = mask_B1TS[:, :, start:end, first:end]
        contexts.append(reference.masked_attention(query, key, value, block_mask, score_cap=score_cap))
    return jnp.concatenate(contexts, axis=2)
