"""Grouped matmuls on TPU by JAX's Pallas kernels megablox, forward and backward. model/kernels/__init__.py chooses it.

What XLA makes of `jax.lax.ragged_dot` depends on the release of libtpu: a grouped kernel, or the product of every row
with the matrices of all E groups, which is 8 times the work with 8 experts. libtpu 0.0.42, which jax 0.10.2 pins, does
that for the gradient of the matrices; 0.0.45 to 0.0.47 (v5e, v6e) and 0.0.52 do it for other products. These kernels
never do.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.kernels import pallas
from model.kernels.shard_map import mark_varying

LANES = 128  # of a vector register: rows are padded to a multiple
MAX_TILE_ROWS = 512
MAX_TILE_ROW_BYTES = 2048  # so a tile's sums fit the 16 MiB that a kernel has where no option says more


def grouped_matmul(rows_RD, matrices_EDF, group_sizes_E, interpret: bool = False) -> jax.Array:
    """`jax.lax.ragged_dot`: multiplies the first group_sizes[0] rows with the first matrix, and so on: [R, F]. It is
    undefined in rows past the last group. `interpret` runs the kernels where there is no TPU."""
    row_count = len(rows_RD)
    rows_RD = jnp.pad(rows_RD, ((0, -row_count % LANES), (0, 0)))
    return padded_matmul(*mark_varying(rows_RD, matrices_EDF), group_sizes_E, interpret)[:row_count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def padded_matmul(rows_RD, matrices_EDF, group_sizes_E, interpret: bool) -> jax.Array:
    tiling = tile_sizes(rows_RD, matrices_EDF.shape[2])
    return megablox_library().gmm(rows_RD, matrices_EDF, group_sizes_E, rows_RD.dtype, tiling, interpret=interpret)


def forward(rows_RD, matrices_EDF, group_sizes_E, interpret: bool):
    return padded_matmul(rows_RD, matrices_EDF, group_sizes_E, interpret), (rows_RD, matrices_EDF, group_sizes_E)


def backward(interpret: bool, residuals, gradient_RF):
    """The gradients of the rows, undefined past the last group as the product is, and of the matrices."""
    rows_RD, matrices_EDF, sizes_E = residuals
    tiling = tile_sizes(gradient_RF, rows_RD.shape[1])
    row_gradient_RD = megablox_library().gmm(
        gradient_RF, matrices_EDF, sizes_E, rows_RD.dtype, tiling, transpose_rhs=True, interpret=interpret
    )
    tiling = tile_sizes(rows_RD, gradient_RF.shape[1])
    matrix_gradient_EDF = megablox_library().tgmm(
        rows_RD.T, gradient_RF, sizes_E, matrices_EDF.dtype, tiling, interpret=interpret
    )
    return row_gradient_RD, matrix_gradient_EDF, None


padded_matmul.defvjp(forward, backward)


def tile_sizes(rows_RD: jax.Array, output_width: int) -> tuple[int, int, int]:
    """The tiling of a product of these rows: rows, input width and output width that are multiplied at once."""
    row_count, input_width = rows_RD.shape
    max_width = MAX_TILE_ROW_BYTES // rows_RD.dtype.itemsize
    return math.gcd(row_count, MAX_TILE_ROWS), min(input_width, max_width), min(output_width, max_width)


@functools.cache
def megablox_library():
    """JAX's megablox, patched to say along which mesh axes its results vary."""
    megablox = importlib.import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")  # its package hides the module
    pallas.patch_pallas_call(megablox, varying_pallas_call)
    return megablox


def varying_pallas_call(
    pallas_call: Callable, kernel: Callable, *, out_shape: jax.ShapeDtypeStruct, **options
) -> Callable:
    """A `pallas_call` whose result varies along the mesh axes that the rows vary along: `jax.shard_map` requires every
    kernel to say so."""

    def call(groups, offset, rows, *others):
        varying_shape = out_shape.update(manual_axis_type=jax.typeof(rows).manual_axis_type)
        return pallas_call(kernel, out_shape=varying_shape, **options)(groups, offset, rows, *others)

    return call
