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
    """

    def __init__(self, weight: nnx.Param):
        value, self.input_axes = weight[...], weight.input_axes
        stacked = weight.axes[0] == "layers"
        self.shape = value.shape[stacked:]
        inputs = math.prod(self.shape[: self.input_axes])
        panels = pack(value.reshape(*value.shape[:stacked], inputs, -1))
        count = -(-panels.shape[-3] // PARTS)
        parts = [panels[..., first : first + count, :, :] for first in range(0, panels.shape[-3], count)]
        self.parts = nnx.List([weight.replace(part, axes=(None,) * part.ndim) for part in parts])

    def project(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """x [.., I] times the weight: [.., O], sharded by these axes. It sums over the last axes of x."""
        leading, outputs = x.shape[: x.ndim - self.input_axes], self.shape[self.input_axes :]
        rows = math.prod(leading)
        x_RI = jnp.pad(x.reshape(rows, -1), ((0, max(2 - rows, 0)), (0, 0)))  # one row alone takes longer than two
        product_PRC = jnp.concatenate([multiply(x_RI, part[...]) for part in self.parts])
        product_RO = product_PRC.swapaxes(0, 1).reshape(x_RI.shape[0], -1)[:rows, : math.prod(outputs)]
        return shard(product_RO.reshape(*leading, *outputs), *axes)

    @property
    def matmul(self) -> str:
        return self.parts[0].matmul

    def unpacked(self) -> jax.Array:
        """The weight in its own shape."""
        matrix_IO = jnp.concatenate([part[...].swapaxes(0, 1).reshape(part.shape[1], -1) for part in self.parts], 1)
        outputs = self.shape[self.input_axes :]
        return matrix_IO[:, : math.prod(outputs)].reshape(self.shape)


def pack(matrix_IO: jax.Array) -> jax.Array:
    """[.., I, O] -> panels [.., P, I, WIDTH]; outputs that the last one has too many are zero."""
    *stacked, inputs, outputs = matrix_IO.shape
    padding = [(0, 0)] * (matrix_IO.ndim - 1) + [(0, -outputs % WIDTH)]
    return jnp.pad(matrix_IO, padding).reshape(*stacked, inputs, -1, WIDTH).swapaxes(-2, -3)


def multiply(x_RI: jax.Array, panels_PIC: jax.Array) -> jax.Array:
    """x times some panels: [R, I] -> [P, R, C]."""
    x_PRI = jnp.broadcast_to(x_RI, (panels_PIC.shape[0], *x_RI.shape))
    return jax.lax.dot_general(x_PRI, panels_PIC, (((2,), (1,)), ((0,), (0,))))
