"""Ring attention: exact causal attention over rows whose time is split over devices. model/kernels chooses it.

Keys and values travel round the devices, queries stay (Liu et al. 2023). The softmax is that of Milakov & Gimelshein
2018, the backward pass that of Dao et al. 2022 (FlashAttention, algorithm 4). Forward and backward, a device holds of a
row its own tokens only, and the scores of one block of queries by one block of keys. Time is in the order of
sharding.time_order, which shares out the work that the causal mask leaves: in each step every device computes as many
blocks as every other, and none that is masked.

With a window a device computes only those of its blocks that the window shows. Keys still go the whole way round,
because a device's later piece needs keys of the device after it, which arrive last; and while a step's blocks are not
shared out evenly, devices wait for each other. `skald plan` counts the blocks that are left out as if computed.
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
from model.kernels.shard_map import KEY, LOGSUMEXP, QUERY, SEGMENTS, dropout_refusal, shard_map_logical
from model.layers import soft_cap
from model.sharding import flatten_axes, partition_spec, shard_count, time_order

MAX_BLOCK = 1024  # tokens: a block's scores take 4 MiB a head
MIN_BLOCK = 128  # tokens: a longer piece that only smaller blocks divide is refused, it would be many tiny products
MASK_VALUE = -1e30  # a masked score; finite, so that no difference of two is NaN

BlockPairs = jax.Array  # int [P, 2]: the index of a block of queries and of a block of keys
INPUT_AXES = (QUERY, KEY, KEY, ("time",), SEGMENTS)  # query, key, value, slots, segments


class Ring(NamedTuple):
    """The tokens of a block, the mesh axes round which keys travel (none: one device), the window and the cap of scores
    (or None)."""

    block_size: int
    axes: tuple[str, ...]
    window: int | None
    score_cap: float | None


class Tokens(NamedTuple):
    """Which tokens the queries or keys of a device are: their slots [T], and their documents [B, T] or None."""

    slots: jax.Array
    segments: jax.Array | None


def refusal(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout, score_cap) -> str | None:
    """Why the ring cannot compute this, and what to set instead; None where it can."""
    length, parts = query_BNTH.shape[2], shard_count("time")
    if block_size(length) is None:
        return f"finds no block of {MIN_BLOCK} to {MAX_BLOCK} tokens in length {length} over mesh context={parts}; " + (
            f"multiples of {2 * parts * MIN_BLOCK} have one"
        )
    return dropout_refusal(weight_dropout)


def block_size(length: int) -> int | None:
    """Tokens of a block: the largest divisor, up to MAX_BLOCK, of a device's piece of the row; None if it is small."""
    parts = shard_count("time")
    piece = length // (2 * parts if parts > 1 else 1)
    size = max((size for size in range(1, min(piece, MAX_BLOCK) + 1) if piece % size == 0), default=0)
    return size if size >= min(piece, MIN_BLOCK) else None


def attention(
    query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None), score_cap: float | None = None
) -> jax.Array:
    """The reference's context; `refusal` rejects dropout. Softmax and sums are in float32.

    Besides its inputs the backward pass needs the context and one float32 for each query and head. Both have the
    checkpoint name `context`, by which model/schedule.py decides what to save.
    """
    slots_T = jnp.asarray(time_order(query_BNTH.shape[2]), jnp.int32)
    return ring_attention(mask.window, score_cap, query_BNTH, key_BKSH, value_BKSH, slots_T, mask.segments_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ring_attention(window, score_cap, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT) -> jax.Array:
    return forward(window, score_cap, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT)[0]


def forward(window: int | None, score_cap: float | None, *inputs):
    local_forward = bind_ring(device_forward, inputs[0], window, score_cap)
    context_BNTH, logsumexp_BNT = shard_map_logical(local_forward, INPUT_AXES, (QUERY, LOGSUMEXP), *inputs)
    context_BNTH = checkpoint_name(context_BNTH, "context")
    logsumexp_BNT = checkpoint_name(logsumexp_BNT, "context")
    return context_BNTH, (*inputs, context_BNTH, logsumexp_BNT)


def backward(window: int | None, score_cap: float | None, residuals, context_gradient_BNTH):
    """Gradients of query, key and value; slots and segments have none."""
    in_axes, out_axes = (*INPUT_AXES, QUERY, LOGSUMEXP, QUERY), (QUERY, KEY, KEY)
    local_backward = bind_ring(device_backward, residuals[0], window, score_cap)
    gradients = shard_map_logical(local_backward, in_axes, out_axes, *residuals, context_gradient_BNTH)
    return *gradients, None, None


ring_attention.defvjp(forward, backward)


def bind_ring(function: Callable, query_BNTH: jax.Array, window: int | None, score_cap: float | None) -> Callable:
    """The function with its first argument bound: the Ring for these queries on the current mesh."""
    time_spec = partition_spec(("time",), query_BNTH.shape[2:3], "compute") or ()
    ring = Ring(block_size(query_BNTH.shape[2]), flatten_axes(*time_spec), window, score_cap)
    return functools.partial(function, ring)


def device_forward(ring: Ring, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT):
    """One device's context [B, N, T, H], and the logsumexp of each query's scores [B, N, T]."""
    queries = split_blocks(group_queries(query_BNTH, key_BKSH), 3, ring.block_size)
    shape, value_width = (*queries.shape[:-1], 1), value_BKSH.shape[3]
    initial = jnp.full(shape, MASK_VALUE), jnp.zeros(shape), jnp.zeros((*queries.shape[:-1], value_width), jnp.float32)
    tokens = Tokens(slots_T, segments_BT)
    query_tokens = split_tree_blocks(tokens, ring.block_size)

    def visit(pairs: BlockPairs, kv_shard, softmax_state, kv_carry):
        keys, values, key_tokens = split_tree_blocks(kv_shard, ring.block_size)

        def update(state, i, j):
            maximum, total, value_sum = state
            mask_B11TS = block_mask(ring.window, query_tokens, i, key_tokens, j)
            scores = jnp.where(mask_B11TS, capped_scores(ring.score_cap, queries[i], keys[j]), MASK_VALUE)
            new_maximum = jnp.maximum(maximum, scores.max(-1, keepdims=True))
            weights, rescale = jnp.exp(scores - new_maximum), jnp.exp(maximum - new_maximum)
            values_seen = einsum_fp32("BKGTS,BKSH->BKGTH", weights.astype(values.dtype), values[j])
            return new_maximum, total * rescale + weights.sum(-1, keepdims=True), value_sum * rescale + values_seen

        def update_block(softmax_state, pair):
            i, j = pair
            state = tuple(x[i] for x in softmax_state)
            is_shown = window_shows(ring.window, query_tokens, i, key_tokens, j)
            updated = compute_if(is_shown, lambda: update(state, i, j), state)
            return tuple(x.at[i].set(y) for x, y in zip(softmax_state, updated, strict=True)), None

        return jax.lax.scan(update_block, softmax_state, pairs)[0], kv_carry

    kv_shard = (key_BKSH, value_BKSH, tokens)
    (maxima, sums, value_sums), _ = ring_loop(visit, ring.axes, len(queries), kv_shard, initial, ())
    context_BNTH = join_blocks(value_sums / sums, 3).reshape(*query_BNTH.shape[:3], value_width)
    return context_BNTH.astype(query_BNTH.dtype), join_blocks(maxima + jnp.log(sums), 3).reshape(query_BNTH.shape[:3])


def device_backward(ring: Ring, query_BNTH, key_BKSH, value_BKSH, slots_T, segments_BT, *outputs):
    """One device's gradients of its queries, keys and values. Those of keys and values travel round with them.

    `outputs`: context, logsumexp and the context's own gradient. Summed in float32. `delta` is D of algorithm 4.
    """
    context_BNTH, logsumexp_BNT, context_gradient_BNTH = outputs
    delta_BNT = jnp.sum(context_gradient_BNTH.astype(jnp.float32) * context_BNTH.astype(jnp.float32), axis=-1)
    per_query = (query_BNTH, context_gradient_BNTH, logsumexp_BNT[..., None], delta_BNT[..., None])
    queries, context_gradients, logsumexps, deltas = (
        split_blocks(group_queries(x, key_BKSH), 3, ring.block_size) for x in per_query
    )
    tokens = Tokens(slots_T, segments_BT)
    query_tokens = split_tree_blocks(tokens, ring.block_size)

    def visit(pairs: BlockPairs, kv_shard, query_gradients, kv_gradients):
        keys, values, key_tokens = split_tree_blocks(kv_shard, ring.block_size)

        def block_gradients(i, j):
            """What a block of queries and one of keys add to the gradients of query, key and value."""
            query, key, gradient = queries[i], keys[j], context_gradients[i]
            mask_B11TS = block_mask(ring.window, query_tokens, i, key_tokens, j)
            scores = capped_scores(ring.score_cap, query, key)
            weights = jnp.exp(jnp.where(mask_B11TS, scores, MASK_VALUE) - logsumexps[i])
            weight_gradients = einsum_fp32("BKGTH,BKSH->BKGTS", gradient, values[j])
            slope = 1.0 if ring.score_cap is None else 1 - jnp.square(scores / ring.score_cap)
            score_gradients = (weights * (weight_gradients - deltas[i]) * slope).astype(query.dtype)
            return (
                einsum_fp32("BKGTS,BKSH->BKGTH", score_gradients, key),
                einsum_fp32("BKGTS,BKGTH->BKSH", score_gradients, query),
                einsum_fp32("BKGTS,BKGTH->BKSH", weights.astype(gradient.dtype), gradient),
            )

        def accumulate(gradients, pair):
            i, j = pair
            nothing = tuple(jnp.zeros(x.shape[1:], x.dtype) for x in gradients)
            is_shown = window_shows(ring.window, query_tokens, i, key_tokens, j)
            added = compute_if(is_shown, lambda: block_gradients(i, j), nothing)
            return tuple(x.at[k].add(y) for x, k, y in zip(gradients, (i, j, j), added, strict=True)), None

        query_gradients, *kv_gradients = jax.lax.scan(accumulate, (query_gradients, *kv_gradients), pairs)[0]
        return query_gradients, tuple(kv_gradients)

    kv_shard = (key_BKSH, value_BKSH, tokens)
    zeros = jnp.zeros(queries.shape, jnp.float32)
    kv_zeros = tuple(jnp.zeros(split_blocks(x, 2, ring.block_size).shape, jnp.float32) for x in (key_BKSH, value_BKSH))
    query_gradients, kv_gradients = ring_loop(visit, ring.axes, len(queries), kv_shard, zeros, kv_zeros)
    query_gradient_BNTH = join_blocks(query_gradients, 3).reshape(query_BNTH.shape).astype(query_BNTH.dtype)
    return query_gradient_BNTH, *(join_blocks(x, 2).astype(key_BKSH.dtype) for x in kv_gradients)


def ring_loop(visit: Callable, axes: tuple, blocks: int, kv_shard, query_carry, kv_carry):
    """Calls `visit(pairs, kv_shard, query_carry, kv_carry)`, which returns both carries updated, for all devices' keys.

    `query_carry` stays with the queries. `kv_shard` is sent to the next device while it is used; `kv_carry` follows
    once it has been added to, and ends where it began. A device's own keys come first, so that every query has seen a
    key (itself) before it meets blocks in which it sees none.
    """
    # The diagonal first, for the same reason.
    own = np.array([(i, i - offset) for offset in range(blocks) for i in range(offset, blocks)], np.int32)
    if not axes:
        return visit(jnp.asarray(own), kv_shard, query_carry, kv_carry)
    device_index, device_count = jax.lax.axis_index(axes), jax.lax.axis_size(axes)
    half = blocks // 2
    # Keys of a device before this one: its first piece is before both of ours, its second after both.
    earlier = np.array([(i, j) for i in range(blocks) for j in range(half)], np.int32)
    # Of a device after it: both its pieces are between ours.
    later = np.array([(i, j) for i in range(half, blocks) for j in range(blocks)], np.int32)
    ring = [(i, (i + 1) % device_count) for i in range(device_count)]

    def send_to_next_device(tree):
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, ring), tree)

    def visit_other(distance, kv_shard, query_carry, kv_carry):
        pairs = jnp.where(distance <= device_index, earlier, later)
        return visit(pairs, kv_shard, query_carry, send_to_next_device(kv_carry))

    def step(carry, distance):
        kv_shard, query_carry, kv_carry = carry
        return (send_to_next_device(kv_shard), *visit_other(distance, kv_shard, query_carry, kv_carry)), None

    next_shard = send_to_next_device(kv_shard)
    query_carry, kv_carry = visit(jnp.asarray(own), kv_shard, query_carry, kv_carry)
    carry = jax.lax.scan(step, (next_shard, query_carry, kv_carry), jnp.arange(1, device_count - 1))[0]
    query_carry, kv_carry = visit_other(device_count - 1, *carry)
    return query_carry, send_to_next_device(kv_carry)


def capped_scores(score_cap: float | None, query_BKGTH, key_BKSH) -> jax.Array:
    """The scores query . key, capped: float32 [B, K, G, T, S]."""
    return soft_cap(einsum_fp32("BKGTH,BKSH->BKGTS", query_BKGTH, key_BKSH), score_cap)


def block_mask(window: int | None, query_tokens: Tokens, i, key_tokens: Tokens, j) -> jax.Array:
    """Which keys of block j the queries of block i see: bool [B or 1, 1, 1, T, S]."""
    query_slots_T1, key_slots_S = query_tokens.slots[i][:, None], key_tokens.slots[j]
    mask_TS = key_slots_S <= query_slots_T1
    if window is not None:
        mask_TS &= key_slots_S > query_slots_T1 - window
    if query_tokens.segments is None:
        return mask_TS[None, None, None]
    same_document_BTS = query_tokens.segments[i][:, :, None] == key_tokens.segments[j][:, None, :]
    return (mask_TS & same_document_BTS)[:, None, None]


def window_shows(window: int | None, query_tokens: Tokens, i, key_tokens: Tokens, j) -> jax.Array | bool:
    """Whether a key of block j, none of whose keys is after block i, is in the window of any query of block i."""
    return window is None or key_tokens.slots[j][-1] > query_tokens.slots[i][0] - window


def compute_if(condition: jax.Array | bool, compute: Callable, otherwise):
    """compute() where the condition is true, on this device and at this moment, else `otherwise`."""
    return compute() if condition is True else jax.lax.cond(condition, compute, lambda: otherwise)


def einsum_fp32(formula: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


def group_queries(x_BNTH: jax.Array, key_BKSH: jax.Array) -> jax.Array:
    """[B, N, T, …] -> [B, K, G, T, …]: query head n belongs to key-value head n // G."""
    kv_heads = key_BKSH.shape[1]
    return x_BNTH.reshape(x_BNTH.shape[0], kv_heads, x_BNTH.shape[1] // kv_heads, *x_BNTH.shape[2:])


def split_blocks(x: jax.Array, axis: int, size: int) -> jax.Array:
    """[…, T, …] -> [T / size, …, size, …]."""
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def join_blocks(x: jax.Array, axis: int) -> jax.Array:
    """The inverse of `split_blocks`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def split_tree_blocks(tree, size: int):
    """Keys and values [B, K, S, H], slots [S] and segments [B, S], each split into blocks: [blocks, …]."""
    return jax.tree.map(lambda x: split_blocks(x, min(x.ndim - 1, 2), size), tree)
