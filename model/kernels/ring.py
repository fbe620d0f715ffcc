"""Exact causal attention over a row whose time is split over devices: keys and values travel round, queries stay.

Liu et al. 2023 (Ring Attention) with the softmax of Milakov & Gimelshein 2018 and the backward pass of Dao et al. 2022
(FlashAttention, algorithm 4). A device holds scores of one block of queries by one block of keys, and of a row its own
tokens only, forward and backward. Time lies as sharding.time_order says, which shares out the work that the causal
mask leaves: each device computes as many blocks as every other in each step, and none that is hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from model.kernels.reference import AttentionMask
from model.kernels.shard_map import KEY, QUERY, SEGMENTS, SUMS, dropout_refusal, shard_map_logical
from model.sharding import flatten_axes, partition_spec, shard_count, time_order

LARGEST = 1024  # tokens of a block: its scores take 4 MiB a head
SMALLEST = 128  # a longer piece that only smaller blocks divide is refused: it would be many tiny products
HIDDEN = -1e30  # as a score; finite, so that no difference of two is NaN

Pairs = jax.Array  # int [P, 2]: a block of queries and one of keys
GIVEN = (QUERY, KEY, KEY, ("time",), SEGMENTS)  # query, key, value, slots, segments


class Ring(NamedTuple):
    """The tokens of a block, and the mesh axes round which keys travel (none: one device)."""

    size: int
    axes: tuple[str, ...]


class Tokens(NamedTuple):
    """Which tokens a device's queries or keys are: their slots [T], and their documents [B, T] or None."""

    slots: jax.Array
    segments: jax.Array | None


def refusal(query_BNTH, key_BKSH, mask: AttentionMask, weight_dropout) -> str | None:
    """Why the ring cannot compute this, and what to set instead; None where it can."""
    length, parts = query_BNTH.shape[2], shard_count("time")
    if block_size(length) is None:
        return f"finds no block of {SMALLEST} to {LARGEST} tokens in length {length} over mesh context={parts}; " + (
            f"multiples of {2 * parts * SMALLEST} have one"
        )
    return dropout_refusal(weight_dropout)


def block_size(length: int) -> int | None:
    """Tokens of a block: as many as LARGEST allows and divide a device's piece of the row; None if there are few."""
    parts = shard_count("time")
    piece = length // (2 * parts if parts > 1 else 1)
    size = max((size for size in range(1, min(piece, LARGEST) + 1) if piece % size == 0), default=0)
    return size if size >= min(piece, SMALLEST) else None


def attention(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None)) -> jax.Array:
    """The reference's context; `drop` is refused above. Softmax and sums in float32.

    The backward pass needs the context and one float32 a query and head besides the inputs; both bear the name
    `context` for what decides what to keep (model/schedule.py).
    """
    slots_T = jnp.asarray(time_order(query_BNTH.shape[2]), jnp.int32)
    return ring_attention(query_BNTH, key_BKSH, value_BKSH, slots_T, mask.segments_BT)


@jax.custom_vjp
def ring_attention(query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT) -> jax.Array:
    return forward(query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT)[0]


def forward(*given):
    made = (QUERY, SUMS)
    context_BNTH, logsumexp_BNT = shard_map_logical(on_device(device_forward, given[0]), GIVEN, made, *given)
    context_BNTH = checkpoint_name(context_BNTH, "context")
    logsumexp_BNT = checkpoint_name(logsumexp_BNT, "context")
    return context_BNTH, (*given, context_BNTH, logsumexp_BNT)


def backward(saved, slope_BNTH):
    """Gradients of query, key and value; slots and segments have none."""
    axes, made = (*GIVEN, QUERY, SUMS, QUERY), (QUERY, KEY, KEY)
    slopes = shard_map_logical(on_device(device_backward, saved[0]), axes, made, *saved, slope_BNTH)
    return *slopes, None, None


ring_attention.defvjp(forward, backward)


def on_device(function: Callable, query_BNTH: jax.Array) -> Callable:
    """The function of one device's arrays."""
    split = partition_spec(("time",), query_BNTH.shape[2:3], "compute") or ()
    return functools.partial(function, Ring(block_size(query_BNTH.shape[2]), flatten_axes(*split)))


def device_forward(ring: Ring, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT):
    """One device's context [B, N, T, H], and the logsumexp of each query's scores [B, N, T]."""
    queries = split_blocks(group_queries(query_BNTH, key_BKSH), 3, ring.size)
    shape = (*queries.shape[:-1], 1)
    start = jnp.full(shape, HIDDEN), jnp.zeros(shape), jnp.zeros(queries.shape, jnp.float32)
    tokens = Tokens(slots_T, segments_BT)
    asked = blocks_of(tokens, ring.size)

    def visit(pairs: Pairs, held, state, travelling):
        keys, values, there = blocks_of(held, ring.size)

        def one(state, pair):
            (i, j), (tops, sums, totals) = pair, state
            scores = masked_scores(queries[i], keys[j], block_mask(asked, i, there, j))
            top = jnp.maximum(tops[i], scores.max(-1, keepdims=True))
            weights, before = jnp.exp(scores - top), jnp.exp(tops[i] - top)
            found = product("BKGTS,BKSH->BKGTH", weights.astype(values.dtype), values[j])
            state = top, sums[i] * before + weights.sum(-1, keepdims=True), totals[i] * before + found
            return tuple(x.at[i].set(y) for x, y in zip((tops, sums, totals), state, strict=True)), None

        return jax.lax.scan(one, state, pairs)[0], travelling

    (tops, sums, totals), _ = ring_loop(visit, ring.axes, len(queries), (key_BKSH, value_BKSH, tokens), start, ())
    context_BNTH = join_blocks(totals / sums, 3).reshape(query_BNTH.shape)
    return context_BNTH.astype(query_BNTH.dtype), join_blocks(tops + jnp.log(sums), 3).reshape(query_BNTH.shape[:3])


def device_backward(ring: Ring, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT, *behind):
    """One device's gradients of its queries, keys and values; those of keys travel with the keys until they are home.

    `behind`: context, logsumexp and the context's own gradient. Summed in float32.
    """
    context_BNTH, logsumexp_BNT, slope_BNTH = behind
    mean_BNT = jnp.sum(slope_BNTH.astype(jnp.float32) * context_BNTH.astype(jnp.float32), axis=-1)
    per_query = (query_BNTH, slope_BNTH, logsumexp_BNT[..., None], mean_BNT[..., None])
    queries, slopes, logsumexps, means = (split_blocks(group_queries(x, key_BKSH), 3, ring.size) for x in per_query)
    tokens = Tokens(slots_T, segments_BT)
    asked = blocks_of(tokens, ring.size)

    def visit(pairs: Pairs, held, query_slopes, travelling):
        keys, values, there = blocks_of(held, ring.size)

        def one(state, pair):
            (i, j), (query_slopes, key_slopes, value_slopes) = pair, state
            query, key, slope = queries[i], keys[j], slopes[i]
            weights = jnp.exp(masked_scores(query, key, block_mask(asked, i, there, j)) - logsumexps[i])
            spread = product("BKGTH,BKSH->BKGTS", slope, values[j])
            score_slopes = (weights * (spread - means[i])).astype(query.dtype)
            return (
                query_slopes.at[i].add(product("BKGTS,BKSH->BKGTH", score_slopes, key)),
                key_slopes.at[j].add(product("BKGTS,BKGTH->BKSH", score_slopes, query)),
                value_slopes.at[j].add(product("BKGTS,BKGTH->BKSH", weights.astype(slope.dtype), slope)),
            ), None

        query_slopes, *travelling = jax.lax.scan(one, (query_slopes, *travelling), pairs)[0]
        return query_slopes, tuple(travelling)

    held = (key_BKSH, value_BKSH, tokens)
    start = jnp.zeros(queries.shape, jnp.float32)
    home = jnp.zeros(split_blocks(key_BKSH, 2, ring.size).shape, jnp.float32)
    query_slopes, (key_slopes, value_slopes) = ring_loop(visit, ring.axes, len(queries), held, start, (home, home))
    query_slope_BNTH = join_blocks(query_slopes, 3).reshape(query_BNTH.shape).astype(query_BNTH.dtype)
    return query_slope_BNTH, *(join_blocks(x, 2).astype(key_BKSH.dtype) for x in (key_slopes, value_slopes))


def ring_loop(visit: Callable, axes: tuple, blocks: int, held, staying, travelling):
    """`visit(pairs, held, staying, travelling)` -> the last two, for each device's keys: one's own first, so that every
    query has seen a key (itself) before it meets blocks in which it sees none.

    `held` goes on while it is used; `travelling` goes with it, once it has been added to, and ends where it began.
    """
    # The diagonal first, for the same reason.
    own = np.array([(i, i - back) for back in range(blocks) for i in range(back, blocks)], np.int32)
    if not axes:
        return visit(jnp.asarray(own), held, staying, travelling)
    here, count = jax.lax.axis_index(axes), jax.lax.axis_size(axes)
    half = blocks // 2
    # Keys of a device before this one: its first piece is before both of ours, its second after both.
    earlier = np.array([(i, j) for i in range(blocks) for j in range(half)], np.int32)
    # Of a device after it: both its pieces are between ours.
    later = np.array([(i, j) for i in range(half, blocks) for j in range(blocks)], np.int32)

    def passed(x):
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, [(i, (i + 1) % count) for i in range(count)]), x)

    def step(number, held, staying, travelling):
        return visit(jnp.where(number <= here, earlier, later), held, staying, passed(travelling))

    def onward(carry, number):
        held, staying, travelling = carry
        return (passed(held), *step(number, held, staying, travelling)), None

    following = passed(held)
    staying, travelling = visit(jnp.asarray(own), held, staying, travelling)
    carry = jax.lax.scan(onward, (following, staying, travelling), jnp.arange(1, count - 1))[0]
    staying, travelling = step(count - 1, *carry)
    return staying, passed(travelling)


def masked_scores(query_BKGTH, key_BKSH, seen_BTS) -> jax.Array:
    """float32 [B, K, G, T, S]: query . key, HIDDEN where the query does not see the key."""
    scores = product("BKGTH,BKSH->BKGTS", query_BKGTH, key_BKSH)
    return jnp.where(seen_BTS[:, None, None], scores, HIDDEN)


def block_mask(asked: Tokens, i, there: Tokens, j) -> jax.Array:
    """bool [B or 1, T, S]: which keys of block j the queries of block i see."""
    seen_BTS = there.slots[j][None, None, :] <= asked.slots[i][None, :, None]
    if asked.segments is None:
        return seen_BTS
    return seen_BTS & (asked.segments[i][:, :, None] == there.segments[j][:, None, :])


def product(formula: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


def group_queries(x_BNTH: jax.Array, key_BKSH: jax.Array) -> jax.Array:
    """[B, N, T, …] -> [B, K, G, T, …]: query head n belongs to key-value head n // G."""
    kv_heads = key_BKSH.shape[1]
    return x_BNTH.reshape(x_BNTH.shape[0], kv_heads, x_BNTH.shape[1] // kv_heads, *x_BNTH.shape[2:])


def split_blocks(x: jax.Array, axis: int, size: int) -> jax.Array:
    """[…, T, …] -> [T / size, …, size, …]."""
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def join_blocks(x: jax.Array, axis: int) -> jax.Array:
    """`blocked` undone."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def blocks_of(held, size: int):
    """Keys, values [B, K, S, H], slots [S] and segments [B, S], each as blocks: [blocks, …]."""
    return jax.tree.map(lambda x: split_blocks(x, min(x.ndim - 1, 2), size), held)
