"""Attention as the formula says, on any backend: the truth other kernels are tested against."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.layers import dropout, einsum
from model.sharding import place


class Visible(NamedTuple):
    """Which keys a query sees: those of its own segment at its own slot or before.

    Slots number a row's tokens in reading order: `query_BT`, and 0 .. S-1 for keys. Segments None: all one document.
    """

    query_BT: jax.Array
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None

    def mask(self, keys: int) -> jax.Array:
        """bool [B, 1, T, S]."""
        seen = jnp.arange(keys) <= self.query_BT[:, None, :, None]
        if self.query_segments_BT is not None:
            seen &= self.query_segments_BT[:, None, :, None] == self.key_segments_BS[:, None, None, :]
        return seen


def attention(query_BTNH, key_BSKH, value_BSKH, visible: Visible, scale: float, drop=(0.0, None)) -> jax.Array:
    """softmax(query . key * scale) . value over visible keys; softmax in float32 (Vaswani et al. 2017, eq. 1)."""
    (*_, heads, head_width), kv_heads = query_BTNH.shape, key_BSKH.shape[2]
    mask = visible.mask(key_BSKH.shape[1])
    if kv_heads == heads:
        scores = einsum("BTNH,BSNH->BNTS", query_BTNH, key_BSKH, "batch", "heads", "time", None)
        weights = dropout(probabilities(scores, mask, scale), *drop).astype(value_BSKH.dtype)
        return einsum("BNTS,BSNH->BTNH", weights, value_BSKH, "batch", "time", "heads", None)
    groups = (*query_BTNH.shape[:2], kv_heads, heads // kv_heads, head_width)
    query_BTKGH = place(query_BTNH.reshape(groups), "batch", "time", "kv_heads", None, None)
    scores = einsum("BTKGH,BSKH->BKGTS", query_BTKGH, key_BSKH, "batch", "kv_heads", None, "time", None)
    weights = dropout(probabilities(scores, mask[:, None], scale), *drop).astype(value_BSKH.dtype)
    context = einsum("BKGTS,BSKH->BTKGH", weights, value_BSKH, "batch", "time", "kv_heads", None, None)
    return merged(context, query_BTNH.shape)


def probabilities(scores: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """Softmax over the last axis in float32, hidden keys at probability 0."""
    return jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32) * scale, -1e30), axis=-1)


def merged(context_BTKGH: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[B, T, K, G, H] -> [B, T, N, H]: query head n belongs to key-value head n // G."""
    from_spec = jax.typeof(context_BTKGH).sharding.spec
    if jax.sharding.get_abstract_mesh().empty:
        return context_BTKGH.reshape(shape)
    return jnp.reshape(context_BTKGH, shape, out_sharding=jax.P(*from_spec[:3], None))
