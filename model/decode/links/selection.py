"""Sets of tokens chosen without sorting a vocabulary, for links: the k likeliest, and the least likely set of a mass.

A bisection finds the least value in the set (the bits of floats are ordered as the floats are, once those of negative
ones are turned round); where tokens are equal, another one finds the last id of that value. For a vocabulary of 50,000
that takes six to ten times as long as a softmax on a CPU, a sort a hundred times or more, and it has another k in each
row of one program.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

SUM_LANES = 64  # as many sums run side by side


def likeliest_mask(values_BV: jax.Array, count_B: jax.Array) -> jax.Array:
    """bool [B, V]: each row's `count_B` greatest values, of equal ones the lowest ids; all if it has fewer."""
    return least_set(values_BV, lambda mask_BV: mask_BV.sum(-1) >= count_B)


def nucleus_mask(probability_BV: jax.Array, p_B: jax.Array, order_BV: jax.Array | None = None) -> jax.Array:
    """bool [B, V]: the smallest set of likeliest tokens, or of the greatest in `order_BV`, with mass `p_B` or more."""
    p_B = jnp.maximum(p_B, 1e-30)  # above 0 in float32 too: else the empty set would do
    order_BV = probability_BV if order_BV is None else order_BV
    return least_set(order_BV, lambda mask_BV: masked_sum(probability_BV, mask_BV) >= p_B)


def least_set(values_BV: jax.Array, suffices) -> jax.Array:
    """bool [B, V]: the smallest set of greatest values that suffices, of equal values the lowest ids; all if none does.

    `suffices` maps a mask [B, V] to bool [B], and holds for every mask that contains one for which it holds.
    """
    before_BV, last_BV = boundary(values_BV, suffices)
    return before_BV | last_BV


def boundary(values_BV: jax.Array, suffices) -> tuple[jax.Array, jax.Array]:
    """Takes values from the greatest down, of equal ones the lowest ids first, until they suffice (see `least_set`).

    bool [B, V]: those before the one with which they do (all if they never do), and that one alone.
    """
    order_BV = ordered_bits(values_BV)
    ids_V = jnp.arange(values_BV.shape[-1], dtype=jnp.uint32)
    threshold_B = bisect_greatest(lambda bits_B: suffices(order_BV >= bits_B[:, None]), 32, values_BV[:, 0])
    above_BV, equal_BV = order_BV > threshold_B[:, None], order_BV == threshold_B[:, None]

    def falls_short(id_B):
        return ~suffices(above_BV | (equal_BV & (ids_V < id_B[:, None])))

    # Equals below this id fall short; with it they do not.
    id_B1 = jax.lax.cond(
        (equal_BV.sum(-1) > 1).any(),
        lambda: bisect_greatest(falls_short, values_BV.shape[-1].bit_length(), values_BV[:, 0]),
        lambda: jnp.where(equal_BV, ids_V, 0).max(-1),  # no row has equals: a third of the passes saved
    )[:, None]
    return above_BV | (equal_BV & (ids_V < id_B1)), equal_BV & (ids_V == id_B1)


def masked_sum(values_BV: jax.Array, mask_BV: jax.Array) -> jax.Array:
    """[B]: the sum of each row's values under a mask, three times as fast on a CPU as a plain sum of one row.

    XLA adds up floats one by one along the last axis, and many at once along another.
    """
    masked_BV = jnp.where(mask_BV, values_BV, 0)
    rows, size = masked_BV.shape
    lanes = min(SUM_LANES, size)  # never an empty array: JAX 0.10.2 can't reshape one on a mesh
    even = size - size % lanes
    return masked_BV[:, :even].reshape(rows, size // lanes, lanes).sum(1).sum(-1) + masked_BV[:, even:].sum(-1)


def ordered_bits(values: jax.Array) -> jax.Array:
    """float32 -> uint32 in the same order, and equal where the floats are: -0 as 0."""
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0, values).astype(jnp.float32), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def bisect_greatest(predicate, bits: int, like_B: jax.Array) -> jax.Array:
    """Each row's greatest uint32 below 2^bits for which a predicate, true up to some number, is true; else 0."""

    def body(index, result_B):
        candidate_B = result_B | (jnp.uint32(1) << (bits - 1 - index).astype(jnp.uint32))
        return jnp.where(predicate(candidate_B), candidate_B, result_B)

    return jax.lax.fori_loop(0, bits, body, jnp.zeros_like(like_B, jnp.uint32))
