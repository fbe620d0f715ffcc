"""A decoder's weights in 8 or 4 bits, its activations as they are (`execution.quantize`).

A weight is kept as the nearest of 255, or 15, evenly spaced numbers, times a float32 scale that a group of inputs of
one output shares: the group's largest magnitude falls on the last number. In 8 bits a group is a whole axis, in 4 bits
at most 64 inputs, for one large weight would round all others of its group to nothing (Dettmers and Zettlemoyer 2023,
section 4). Compilers for accelerators turn the numbers into activations' type while a product reads them. A CPU's does
not: there panels.py has the numbers, and small weights are rounded and kept in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import panels
from model.config import Execution
from model.panels import PanelWeight, quantize
from model.sharding import largest_divisor, partition_of, reshape, shard_count, without_gradient


class Format(NamedTuple):
    """A type of numbers, the greatest of it that is used, either side of 0, and the most inputs of a group."""

    dtype: jnp.dtype
    greatest: int
    group: int | None  # None: all of an axis


FORMATS = {"int8": Format(jnp.int8, 127, None), "int4": Format(jnp.int4, 7, 64)}


def decoding_weight(weight: nnx.Param, execution: Execution) -> nnx.Module:
    """What stands for a weight of `project` in a decoder: in few bits, in panels, or the weight itself."""
    in_panels = execution.panels and jax.sharding.get_abstract_mesh().empty
    is_large = weight[...].size >= panels.SMALLEST
    if execution.quantize == "none":
        return PanelWeight(weight) if in_panels and is_large else weight
    quantized = QuantizedWeight(weight, execution.quantize)
    if not in_panels:
        return quantized
    rounded = weight.replace(quantized.unpacked(jnp.float32).astype(weight[...].dtype))
    return PanelWeight(rounded, in_int8=True) if is_large else rounded


class QuantizedWeight(nnx.Module):
    """A weight [L, I.., O..] as `values` of that shape in few bits, and `scale` [L, I.., 1, O..]: one for each group of
    `group` inputs along the last I, which the scale's last I counts. L is there for weights of layers.

    It stands where the weight stood, for `project` and `gather_parameters`.
    """

    def __init__(self, weight: nnx.Param, format_name: str):
        dtype, greatest, group = FORMATS[format_name]
        value, axes = weight[...], weight.axes
        self.axis = (axes[0] == "layers") + weight.input_axes - 1 - value.ndim  # the last of the inputs, from behind
        shard_size = value.shape[self.axis] // shard_count(axes[self.axis])
        self.group = largest_divisor(shard_size, group or shard_size)
        rounded, scale = quantize(self.split(value), self.axis, dtype, greatest)
        last = value.ndim + self.axis + 1
        self.values = weight.replace(self.join(rounded), keep_float32=True)
        self.scale = weight.replace(scale, axes=(*axes[:last], None, *axes[last:]), keep_float32=True)

    def unpacked(self, dtype: jnp.dtype) -> jax.Array:
        """The weight in its own shape, rounded."""
        values, scale = without_gradient(self.values[...]), without_gradient(self.scale[...])
        grouped = self.split(values.astype(jnp.float32)) * scale
        return self.join(grouped).astype(dtype)

    def split(self, x: jax.Array) -> jax.Array:
        """The last axis of inputs as groups and their inputs: [.., I, O..] -> [.., I / group, group, O..]."""
        axis, partition = x.ndim + self.axis, partition_of(x)
        shape = (*x.shape[:axis], x.shape[axis] // self.group, self.group, *x.shape[axis + 1 :])
        return reshape(x, shape, (*partition[: axis + 1], None, *partition[axis + 1 :]))

    def join(self, x: jax.Array) -> jax.Array:
        """Undoes `split`."""
        axis, partition = x.ndim - 1 + self.axis, partition_of(x)
        shape = (*x.shape[:axis], x.shape[axis] * self.group, *x.shape[axis + 2 :])
        return reshape(x, shape, (*partition[: axis + 1], *partition[axis + 2 :]))
