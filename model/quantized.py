"""Matmuls of activations with weights in eight bits, forward and backward (Execution.matmul). layers.project calls it.

Quantized are the matmuls of layers: query, key, value and output, gate, up and down. The logits, a router, experts, and
what attention multiplies are not.

The arithmetic is that of qwix's own training (QtProvider with weight, activation and backward types), from its public
parts. The provider itself wraps a whole model, takes what attention multiplies for weights as well, and fails where
mesh axes are Explicit (0.1.8).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import qwix
from jax.sharding import PartitionSpec

from model.sharding import available_mesh_axes, flatten_axes, partition_of


class Format(NamedTuple):
    """The types to which values (activations and weights) and the gradients of a product's result are rounded."""

    value: jnp.dtype
    gradient: jnp.dtype


FORMATS = {
    "int8": Format(jnp.int8, jnp.int8),
    "fp8": Format(jnp.float8_e4m3fn, jnp.float8_e5m2),  # Micikevicius et al. 2022, 3
}


def project(x: jax.Array, weight: jax.Array, input_axes: int, format_name: str) -> jax.Array:
    """The product of x and a weight over its first `input_axes` axes, in 8 bits: […, I…] . [I…, O…] -> […, O…].

    On a mesh each device quantizes its own shards, and partial results are summed in x's dtype. So where a contracted
    axis is split, each part has scales of its own (finer ones), and no scale is communicated.
    """
    if available_mesh_axes():
        return project_sharded(x, weight, input_axes, format_name)
    return project_local(x, weight, input_axes, format_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def project_sharded(x: jax.Array, weight: jax.Array, input_axes: int, format_name: str) -> jax.Array:
    """`project` on a mesh: jax.shard_map over the mesh axes that are not manual yet.

    Its backward pass is written by hand, and needs x and weight only: what JAX (0.10 to 0.12) would save by itself gets
    a sharding that the compiler refuses inside a pipeline. So the forward pass is not checked (check_vma). The backward
    pass is: that keeps a gathered weight's gradient unsummed.
    """
    x_partition, weight_partition = partition_of(x), partition_of(weight)
    contracted_axes = flatten_axes(*x_partition[x.ndim - input_axes :])

    def project_shard(x, weight):
        return jax.lax.psum(project_local(x, weight, input_axes, format_name), contracted_axes)

    in_specs = (PartitionSpec(*x_partition), PartitionSpec(*weight_partition))
    out_specs = PartitionSpec(*x_partition[: x.ndim - input_axes], *weight_partition[input_axes:])
    specs = {"in_specs": in_specs, "out_specs": out_specs, "axis_names": available_mesh_axes()}
    return jax.shard_map(project_shard, **specs, check_vma=False)(x, jax.sharding.reshard(weight, in_specs[1]))


def sharded_forward(x, weight, input_axes, format_name):
    return project_sharded(x, weight, input_axes, format_name), (x, weight)


def sharded_backward(input_axes, format_name, residuals, gradient):
    """The gradients of x and weight; the weight's stays unsummed over the axes of its gather (sharding.gather)."""
    partitions = [partition_of(array) for array in (*residuals, gradient)]
    reduced = jax.typeof(residuals[1]).sharding.spec.reduced
    x_axes, weight_axes, gradient_axes = (set(flatten_axes(*partition)) for partition in partitions)
    used_axes = x_axes | weight_axes

    def backward_shard(x, weight, gradient):
        def project_varying(x, weight):
            x, weight = mark_varying(x, used_axes - x_axes), mark_varying(weight, used_axes - weight_axes, reduced)
            return project_local(x, weight, input_axes, format_name)

        return jax.vjp(project_varying, x, weight)[1](mark_varying(gradient, used_axes - gradient_axes))

    x_spec, gradient_spec = PartitionSpec(*partitions[0]), PartitionSpec(*partitions[2])
    in_specs = (x_spec, PartitionSpec(*partitions[1], reduced=reduced), gradient_spec)
    out_specs = (x_spec, PartitionSpec(*partitions[1], unreduced=reduced))
    specs = {"in_specs": in_specs, "out_specs": out_specs, "axis_names": available_mesh_axes()}
    return jax.shard_map(backward_shard, **specs)(*residuals, gradient)


project_sharded.defvjp(sharded_forward, sharded_backward)


def mark_varying(x: jax.Array, axes: set[str], reduced: frozenset[str] = frozenset()) -> jax.Array:
    """x, marked as varying along these mesh axes: its gradient is summed over them, but for those in `reduced`."""
    for group in (axes & reduced, axes - reduced):
        x = jax.lax.pcast(x, tuple(sorted(group)), to="varying") if group else x
    return x


def project_local(x: jax.Array, weight: jax.Array, input_axes: int, format_name: str) -> jax.Array:
    """`project` on one device's arrays."""
    shape = (*x.shape[: x.ndim - input_axes], *weight.shape[input_axes:])
    features = math.prod(weight.shape[:input_axes])
    return matmul(x.reshape(-1, features), weight.reshape(features, -1), FORMATS[format_name]).reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x_TI: jax.Array, weight_IO: jax.Array, number_format: Format) -> jax.Array:
    """The product of tokens' features and a weight in 8 bits: [T, I] . [I, O] -> [T, O], in x's dtype.

    Each token and each output feature has one scale, so that scales leave the sum: products are of 8-bit numbers, and
    are summed in int32 (exact up to 133,000 terms) or float32. The backward pass multiplies with the 8-bit numbers
    saved here. Their scales are first multiplied into the gradient, which is then quantized itself.
    """
    return forward(x_TI, weight_IO, number_format)[0]


def forward(x_TI, weight_IO, number_format):
    x, weight = quantize(x_TI, number_format.value, 0), quantize(weight_IO, number_format.value, 1)
    return dot(x, weight, 1, 0).astype(x_TI.dtype), (x, weight)


def backward(number_format, residuals, gradient_TO):
    x, weight = residuals
    for_x = quantize(gradient_TO * weight.scale, number_format.gradient, 0)
    for_weight = quantize(gradient_TO * x.scale, number_format.gradient, 1)
    x_gradient_TI, weight_gradient_IO = dot(for_x, weight.qvalue, 1, 1), dot(x.qvalue, for_weight, 0, 0)
    return x_gradient_TI.astype(gradient_TO.dtype), weight_gradient_IO.astype(gradient_TO.dtype)


matmul.defvjp(forward, backward)


def quantize(matrix: jax.Array, dtype: jnp.dtype, axis: int) -> qwix.QArray:
    """8-bit numbers, and one float32 scale for each index along `axis`, from its largest magnitude.

    Where all numbers are 0 (a document's first state in an LSTM), qwix makes the scale 1 (0.1.8). Here it is 0: else
    the backward pass would multiply it into a gradient, as the largest of all, and what counts would be rounded away.
    """
    matrix = matrix.astype(jnp.float32)
    quantized = qwix.quantize(matrix, dtype, channelwise_axes=[axis])
    is_zero = (matrix == 0).all(1 - axis, keepdims=True)
    return dataclasses.replace(quantized, scale=jnp.where(is_zero, 0, quantized.scale))


def dot(a, b, axis_a: int, axis_b: int) -> jax.Array:
    """The product of two matrices over these axes, in float32, with the scales of those that have any put back."""
    return qwix.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))
