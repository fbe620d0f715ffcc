"""Attention as the formula says, on any backend: the truth that other kernels are tested against. model/kernels chooses
it where no faster kernel can run."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from model.layers import at_least_float32, dropout, einsum, soft_cap
from model.sharding import shard, time_order


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """Which keys a query sees: those of its own segment, at its own slot or before.

    A slot is a token's index in its row, in reading order: `query_slots_BT`. The slots of keys follow from how time is
    split (sharding.time_order); while decoding from a ring, `key_slots_BS` has them. Without segments a row is one
    document. With a `window` w a query sees the last w slots alone, its own included.
    """

    query_slots_BT: jax.Array
    segments_BT: jax.Array | None = None
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    key_slots_BS: jax.Array | None = None

    def dense(self, keys: int) -> jax.Array:
        """The mask as an array, bool [B, 1, T, S], for S keys."""
        key_slots, query_slots_B1T1 = jnp.asarray(time_order(keys)), self.query_slots_BT[:, None, :, None]
        if self.key_slots_BS is not None:
            key_slots = self.key_slots_BS[:, None, None, :]
        mask_B1TS = key_slots <= query_slots_B1T1
        if self.window is not None:
            mask_B1TS &= key_slots > query_slots_B1T1 - self.window
        if self.segments_BT is not None:
            key_segments_BS = shard(self.segments_BT, "batch", None)
            mask_B1TS &= self.segments_BT[:, None, :, None] == key_segments_BS[:, None, None, :]
        return mask_B1TS


def attention(
    query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None), score_cap: float | None = None
) -> jax.Array:
    """softmax(query . key) . value over visible keys; softmax in float32 (Vaswani et al. 2017, eq. 1)."""
    # Keys are gathered: every query may need all of them.
    key_BKSH, value_BKSH = (shard(x, "batch", "kv_heads", None, None) for x in (key_BKSH, value_BKSH))
    return masked_attention(query_BNTH, key_BKSH, value_BKSH, mask.dense(key_BKSH.shape[2]), weight_dropout, score_cap)


def masked_attention(
    query_BNTH, key_BKSH, value_BKSH, mask_B1TS, weight_dropout=(0.0, None), score_cap: float | None = None
) -> jax.Array:
    """`attention` with a mask bool [B, 1, T, S]; time of keys and values is whole on every device."""
    heads, kv_heads = query_BNTH.shape[1], key_BKSH.shape[1]
    if kv_heads == heads:
        scores = einsum("BNTH,BNSH->BNTS", query_BNTH, key_BKSH, "batch", "heads", "time", None)
        weights = masked_softmax(soft_cap(scores, score_cap), mask_B1TS)
        weights = dropout(weights, *weight_dropout).astype(value_BKSH.dtype)
        return einsum("BNTS,BNSH->BNTH", weights, value_BKSH, "batch", "heads", "time", None)
    query_BKGTH = group_queries(query_BNTH, kv_heads)
    scores = einsum("BKGTH,BKSH->BKGTS", query_BKGTH, key_BKSH, "batch", "kv_heads", None, "time", None)
    weights = masked_softmax(soft_cap(scores, score_cap), mask_B1TS[:, None])
    weights = dropout(weights, *weight_dropout).astype(value_BKSH.dtype)
    context = einsum("BKGTS,BKSH->BKGTH", weights, value_BKSH, "batch", "kv_heads", None, "time", None)
    return merge_heads(context, (*query_BNTH.shape[:3], value_BKSH.shape[3]))


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis in float32; masked keys get probability 0."""
    return jax.nn.softmax(jnp.where(mask, at_least_float32(scores), -1e30), axis=-1)


def group_queries(query_BNTH: jax.Array, kv_heads: int) -> jax.Array:
    """[B, N, T, H] -> [B, K, G, T, H]: query head n belongs to key-value head n // G."""
    rows, heads, length, head_width = query_BNTH.shape
    groups = (rows, kv_heads, heads // kv_heads, length, head_width)
    return shard(query_BNTH.reshape(groups), "batch", "kv_heads", None, "time", None)


def merge_heads(context_BKGTH: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[B, K, G, T, H] -> [B, N, T, H]."""
    if jax.sharding.get_abstract_mesh().empty:
        return context_BKGTH.reshape(shape)
    batch, heads, _, time, _ = jax.typeof(context_BKGTH).sharding.spec
    return jnp.reshape(context_BKGTH, shape, out_sharding=jax.P(batch, heads, time, None))
