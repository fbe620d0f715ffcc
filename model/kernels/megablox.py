"""Grouped products on TPU by JAX's Pallas kernels megablox, forward and backward. model/kernels/__init__.py chooses it.

What XLA makes of `jax.lax.ragged_dot` changes with the release of libtpu: a grouped kernel, or every row with the
matrices of all E groups. For the gradient of the matrices that is 8 times the work of 8 experts with libtpu 0.0.42,
which jax 0.10.2 pins; for other products with 0.0.45 to 0.0.47 (v5e, v6e) and 0.0.52. Here it is none of them.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.kernels import pallas

LANES = 128  # of a vector register: rows are padded to a multiple
ROWS = 512  # of a tile, at most
WIDTH = 2048  # bytes of a tile's row, at most: its sums fit the 16 MiB that a kernel has where no option says more


def grouped_matmul(rows_RD, matrices_EDF, sizes_E, interpret: bool = False) -> jax.Array:
    """`jax.lax.ragged_dot`: [R, F], the first sizes[0] rows with the first matrix, and so on; undefined in rows past
    the last group. `interpret` runs the kernels where there is no TPU."""
    count = len(rows_RD)
    rows_RD = jnp.pad(rows_RD, ((0, -count % LANES), (0, 0)))
    return padded_matmul(*mark_varying(rows_RD, matrices_EDF), sizes_E, interpret)[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def padded_matmul(rows_RD, matrices_EDF, sizes_E, interpret: bool) -> jax.Array:
    sizes = tile_sizes(rows_RD, matrices_EDF.shape[2])
    return megablox_library().gmm(rows_RD, matrices_EDF, sizes_E, rows_RD.dtype, sizes, interpret=interpret)


def forward(rows_RD, matrices_EDF, sizes_E, interpret: bool):
    return padded_matmul(rows_RD, matrices_EDF, sizes_E, interpret), (rows_RD, matrices_EDF, sizes_E)


def backward(interpret: bool, kept, made_RF):
    """The gradients of the rows, undefined past the last group as the product is, and of the matrices."""
    rows_RD, matrices_EDF, sizes_E = kept
    sizes = tile_sizes(made_RF, rows_RD.shape[1])
    rows = megablox_library().gmm(
        made_RF, matrices_EDF, sizes_E, rows_RD.dtype, sizes, transpose_rhs=True, interpret=interpret
    )
    sizes = tile_sizes(rows_RD, made_RF.shape[1])
    matrices = megablox_library().tgmm(rows_RD.T, made_RF, sizes_E, matrices_EDF.dtype, sizes, interpret=interpret)
    return rows, matrices, None


padded_matmul.defvjp(forward, backward)


def tile_sizes(rows_RD: jax.Array, made: int) -> tuple[int, int, int]:
    """How many rows, of how many numbers, are multiplied at once, into how many."""
    count, width = rows_RD.shape
    most = WIDTH // rows_RD.dtype.itemsize
    return math.gcd(count, ROWS), min(width, most), min(made, most)


def mark_varying(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays that differ along the same manual mesh axes: along those of any. Their gradients are summed over what is
    added, as those of JAX's own products are."""
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))

    def along(x: jax.Array) -> jax.Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return list(map(along, arrays))


@functools.cache
def megablox_library():
    """JAX's megablox, which does not say along which mesh axes its results vary, saying so."""
    megablox = importlib.import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")  # its package hides the module
    pallas.patch_pallas_call(megablox, varying_pallas_call)
    return megablox


def varying_pallas_call(
    pallas_call: Callable, kernel: Callable, *, out_shape: jax.ShapeDtypeStruct, **given
) -> Callable:
    """A kernel whose results vary along the mesh axes that the rows do: `jax.shard_map` asks every kernel for it."""

    def call(groups, offset, rows, *others):
        made = out_shape.update(manual_axis_type=jax.typeof(rows).manual_axis_type)
        return pallas_call(kernel, out_shape=made, **given)(groups, offset, rows, *others)

    return call
