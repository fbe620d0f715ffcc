"""A decoder's weights on a CPU: in panels of a few outputs, of which each is read once for all rows of a product.

XLA's CPU compiler packs a weight anew in each product of several rows, which takes as long as reading it twice; a panel
it multiplies as it lies there, so that two to eight rows cost little more than one. Few rows it multiplies with all
panels of an array in one thread; arrays it shares out among threads where more than eight are ready: hence PARTS.
launch/machine/cpu asks for panels (`execution.panels`), transformer.py makes them, and layers.py multiplies with them
in its `project`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from model.sharding import shard

WIDTH = 64  # outputs of a panel
PARTS = 12  # arrays of a weight, each of some of its panels
SMALLEST = 1 << 16  # numbers of a weight that is worth it


class PanelWeight(nnx.Module):
    """A weight of inputs I and outputs O as arrays [L, P, I, WIDTH], which together have all its panels, in order.

    It stands where the weight stood, for `project` and `gather_parameters`. `shape`: the weight's own, without L.
    `in_int8`: panels of 8-bit integers with a scale for each output. Their products are of integers: of several rows
    the compiler has fast ones, while it would convert panels for every product. So x is rounded, too, row by row.
    """

    def __init__(self, weight: nnx.Param, in_int8: bool = False):
        value, self.input_axes = weight[...], weight.input_axes
        stacked = weight.axes[0] == "layers"
        self.shape = value.shape[stacked:]
        inputs = math.prod(self.shape[: self.input_axes])
        matrix_IO = value.reshape(*value.shape[:stacked], inputs, -1)
        scale = None
        if in_int8:
            matrix_IO, scale_1O = quantize(matrix_IO, axis=-2)
            scale = weight.replace(scale_1O, axes=(None,) * scale_1O.ndim, keep_float32=True)
            weight = weight.replace(keep_float32=True)
        self.scale = nnx.data(scale)
        panels = pack(matrix_IO)
        count = -(-panels.shape[-3] // PARTS)
        parts = [panels[..., first : first + count, :, :] for first in range(0, panels.shape[-3], count)]
        self.parts = nnx.List([weight.replace(part, axes=(None,) * part.ndim) for part in parts])

    def project(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """x [.., I] times the weight: [.., O], sharded by these axes. It sums over the last axes of x."""
        leading, outputs = x.shape[: x.ndim - self.input_axes], self.shape[self.input_axes :]
        rows = math.prod(leading)
        x_RI = jnp.pad(x.reshape(rows, -1), ((0, max(2 - rows, 0)), (0, 0)))  # one row alone takes longer than two
        if self.scale is None:
            product_RO = self.multiply(x_RI)
        else:
            x_RI, scale_R1 = jax.lax.optimization_barrier(quantize(x_RI, axis=-1))  # once for all parts
            product_RO = (self.multiply(x_RI) * scale_R1 * self.scale[...]).astype(x.dtype)
        return shard(product_RO[:rows].reshape(*leading, *outputs), *axes)

    def multiply(self, x_RI: jax.Array) -> jax.Array:
        """The product with all panels [R, O], of integers in int32."""
        product_PRC = jnp.concatenate([multiply(x_RI, part[...]) for part in self.parts])
        outputs = math.prod(self.shape[self.input_axes :])
        return product_PRC.swapaxes(0, 1).reshape(x_RI.shape[0], -1)[:, :outputs]

    @property
    def matmul(self) -> str:
        return self.parts[0].matmul

    def unpacked(self) -> jax.Array:
        """The weight in its own shape."""
        matrix_IO = jnp.concatenate([part[...].swapaxes(0, 1).reshape(part.shape[1], -1) for part in self.parts], 1)
        matrix_IO = matrix_IO[:, : math.prod(self.shape[self.input_axes :])]
        return (matrix_IO if self.scale is None else matrix_IO * self.scale[...]).reshape(self.shape)


def pack(matrix_IO: jax.Array) -> jax.Array:
    """[.., I, O] -> panels [.., P, I, WIDTH]; outputs that the last one has too many are zero."""
    *stacked, inputs, outputs = matrix_IO.shape
    padding = [(0, 0)] * (matrix_IO.ndim - 1) + [(0, -outputs % WIDTH)]
    return jnp.pad(matrix_IO, padding).reshape(*stacked, inputs, -1, WIDTH).swapaxes(-2, -3)


def multiply(x_RI: jax.Array, panels_PIC: jax.Array) -> jax.Array:
    """x times some panels: [R, I] -> [P, R, C]."""
    x_PRI = jnp.broadcast_to(x_RI, (panels_PIC.shape[0], *x_RI.shape))
    sums = jnp.int32 if panels_PIC.dtype == jnp.int8 else None
    return jax.lax.dot_general(x_PRI, panels_PIC, (((2,), (1,)), ((0,), (0,))), preferred_element_type=sums)


def quantize(x: jax.Array, axis: int, dtype=jnp.int8, greatest: int = 127) -> tuple[jax.Array, jax.Array]:
    """Integers from -greatest to greatest, and the float32 scales that numbers along this axis share, so that the
    largest of them is one of the two: x = integers * scales, roughly."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis, keepdims=True) / greatest
    return jnp.round(x / jnp.where(scale == 0, 1, scale)).astype(dtype), scale
