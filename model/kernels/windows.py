"""Grouped matmuls on CPU, group after group in windows of a few rows. model/kernels/__init__.py chooses it; delete this
file and its name there, and only speed changes.

XLA's CPU compiler makes of `jax.lax.ragged_dot` the product of every row with the matrices of all E groups: E times the
work, and E times the weights to read where few rows are decoded.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.kernels.shard_map import mark_varying
from model.layers import at_least_float32

MAX_WINDOW = 64  # rows: more fill a window of their group badly, fewer make small products


class Windows(NamedTuple):
    """Runs of `size` rows that cover all groups, in the order of rows. Window w begins at row start[w] with rows of
    group[w], which ends at row end[w]: what it holds behind that belongs to others. The first `count` are used."""

    size: int
    start_W: jax.Array
    group_W: jax.Array
    end_W: jax.Array
    count: jax.Array


def grouped_matmul(rows_RD: jax.Array, matrices_EDF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """`jax.lax.ragged_dot`: multiplies the first group_sizes[0] rows with the first matrix, and so on: [R, F]. It is
    undefined in rows past the last group."""
    return windowed_matmul(*mark_varying(rows_RD, matrices_EDF, group_sizes_E))


def cover_groups(row_count: int, group_sizes_E: jax.Array) -> Windows:
    """As few windows as cover these groups of at most R rows together. They are as large as an even share of the rows,
    rounded up to a power of two."""
    share = -(-row_count // len(group_sizes_E))
    size = min(MAX_WINDOW, 1 << max(0, share - 1).bit_length())
    windows_E = -(-group_sizes_E // size)
    last_E, end_E = jnp.cumsum(windows_E), jnp.cumsum(group_sizes_E)
    index_W = jnp.arange(row_count // size + len(group_sizes_E), dtype=jnp.int32)
    group_W = jnp.minimum((index_W[:, None] >= last_E).sum(1), len(group_sizes_E) - 1)
    start_W = (end_E - group_sizes_E)[group_W] + size * (index_W - (last_E - windows_E)[group_W])
    return Windows(size, start_W, group_W, end_E[group_W], last_E[-1])


@jax.custom_vjp
def windowed_matmul(rows_RD, matrices_EDF, group_sizes_E) -> jax.Array:
    return multiply("ED,DF->EF", rows_RD, matrices_EDF, cover_groups(len(rows_RD), group_sizes_E))


def forward(rows_RD, matrices_EDF, group_sizes_E):
    return windowed_matmul(rows_RD, matrices_EDF, group_sizes_E), (rows_RD, matrices_EDF, group_sizes_E)


def backward(residuals, gradient_RF):
    """The gradients of the rows, undefined past the last group as the product is, and of the matrices."""
    rows_RD, matrices_EDF, group_sizes_E = residuals
    windows = cover_groups(len(rows_RD), group_sizes_E)
    row_gradient_RD = multiply("EF,DF->ED", gradient_RF, matrices_EDF, windows)
    return row_gradient_RD, sum_outer_products(rows_RD, gradient_RF, windows, matrices_EDF), None


windowed_matmul.defvjp(forward, backward)


def multiply(formula: str, rows_RD: jax.Array, matrices_EDF: jax.Array, windows: Windows) -> jax.Array:
    """Each row multiplied with the matrix of its group, by the `formula` of one window and one matrix.

    A window is written whole. What it wrote behind its group's end, the next group's first window writes again.
    """
    padded_RD = pad(rows_RD, windows.size)

    def write(index, out_RF):
        window_ED = jax.lax.dynamic_slice_in_dim(padded_RD, windows.start_W[index], windows.size)
        matrix_DF = jax.lax.dynamic_index_in_dim(matrices_EDF, windows.group_W[index], keepdims=False)
        product_EF = jnp.einsum(formula, window_ED, matrix_DF)
        return jax.lax.dynamic_update_slice_in_dim(out_RF, product_EF, windows.start_W[index], 0)

    width = jax.eval_shape(functools.partial(jnp.einsum, formula), padded_RD[:1], matrices_EDF[0]).shape[1]
    out_RF = jnp.broadcast_to(jnp.zeros_like(padded_RD[:, :1]), (len(padded_RD), width))
    return jax.lax.fori_loop(0, windows.count, write, out_RF)[: len(rows_RD)]


def sum_outer_products(rows_RD, gradient_RF, windows: Windows, matrices_EDF) -> jax.Array:
    """The gradient of each group's matrix: [E, D, F], added up in float32 over its windows."""
    padded_RD, padded_RF = pad(rows_RD, windows.size), pad(gradient_RF, windows.size)

    def add(index, sum_EDF):
        start, group = windows.start_W[index], windows.group_W[index]
        own_E1 = (start + jnp.arange(windows.size) < windows.end_W[index])[:, None]
        window_ED = jnp.where(own_E1, jax.lax.dynamic_slice_in_dim(padded_RD, start, windows.size), 0)
        window_EF = jnp.where(own_E1, jax.lax.dynamic_slice_in_dim(padded_RF, start, windows.size), 0)
        product_DF = jnp.einsum("ED,EF->DF", window_ED, window_EF, preferred_element_type=sum_EDF.dtype)
        total_DF = jax.lax.dynamic_index_in_dim(sum_EDF, group, keepdims=False) + product_DF
        return jax.lax.dynamic_update_index_in_dim(sum_EDF, total_DF, group, 0)

    zeros_EDF = jnp.zeros_like(at_least_float32(matrices_EDF))
    return jax.lax.fori_loop(0, windows.count, add, zeros_EDF).astype(matrices_EDF.dtype)


def pad(rows_RD: jax.Array, size: int) -> jax.Array:
    """The rows with a window of zeros behind them: the last windows may begin at any row."""
    return jnp.pad(rows_RD, ((0, size), (0, 0)))
