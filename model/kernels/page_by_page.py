"""Attention over keys and values that lie in pages, for backends without a kernel for them: one page of every row after
the other. model/key_values.py calls it.

No row's pages are copied together: what is gathered at a time is small enough for a processor's cache. The loop ends
with the longest row's last page, however wide the table of pages is.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.kernels.reference import AttentionMask, group_queries, merge_heads
from model.layers import at_least_float32, einsum, soft_cap
from model.sharding import shard

MASKED = -1e30


def attention(
    query_BNTH,
    key_page: Callable,
    value_page: Callable,
    kv_heads: int,
    pages_Bn,
    size: int,
    mask: AttentionMask,
    score_cap,
) -> jax.Array:
    """The context [B, N, T, H] of queries that are scaled already; softmax in float32, as the reference's.

    `key_page` and `value_page` map the numbers [B] of a page of each row to its keys or values [B, K, C, H]; C is
    `size`. `pages_Bn`: each row's pages, in the order of its slots.
    """
    query_BKGTH = group_queries(query_BNTH, kv_heads)
    axes = ("batch", "kv_heads", None, None, None)
    used = jnp.minimum(mask.query_slots_BT.max() // size + 1, pages_Bn.shape[1])

    def score(index, scores_nBKGTC):
        key_BKCH = key_page(pages_Bn[:, index])
        scores_BKGTC = einsum("BKGTH,BKCH->BKGTC", query_BKGTH, key_BKCH, *axes)
        scores_BKGTC = soft_cap(at_least_float32(scores_BKGTC), score_cap)
        scores_BKGTC = jnp.where(page_mask(mask, index, size), scores_BKGTC, MASKED)
        return jax.lax.dynamic_update_index_in_dim(scores_nBKGTC, scores_BKGTC, index, 0)

    shape = (pages_Bn.shape[1], *query_BKGTH.shape[:-1], size)
    scores_nBKGTC = shard(jnp.full(shape, MASKED, jnp.promote_types(query_BNTH.dtype, jnp.float32)), None, *axes)
    scores_nBKGTC = jax.lax.fori_loop(0, used, score, scores_nBKGTC)
    weights_nBKGTC = jnp.exp(scores_nBKGTC - scores_nBKGTC.max((0, -1), keepdims=True))
    weights_nBKGTC = (weights_nBKGTC / weights_nBKGTC.sum((0, -1), keepdims=True)).astype(query_BNTH.dtype)

    def add(index, context_BKGTH):
        value_BKCH = value_page(pages_Bn[:, index])
        return context_BKGTH + einsum("BKGTC,BKCH->BKGTH", weights_nBKGTC[index], value_BKCH, *axes)

    value_width = jax.eval_shape(value_page, pages_Bn[:, 0]).shape[-1]
    empty = shard(jnp.zeros((*query_BKGTH.shape[:-1], value_width), query_BNTH.dtype), *axes)
    context_BKGTH = jax.lax.fori_loop(0, used, add, empty)
    return merge_heads(context_BKGTH, (*query_BNTH.shape[:3], value_width))


def page_mask(mask: AttentionMask, index, size: int) -> jax.Array:
    """Which slots of a row's page each query sees: bool [B, 1, 1, T, C]."""
    slot_C, query_BT1 = index * size + jnp.arange(size), mask.query_slots_BT[..., None]
    seen_BTC = slot_C <= query_BT1
    if mask.window is not None:
        seen_BTC &= slot_C > query_BT1 - mask.window
    return seen_BTC[:, None, None]
