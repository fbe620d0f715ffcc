"""Products of activations with weights in eight bits, forward and backward (Execution.matmul). layers.project calls it.

Those of layers: query, key, value and output, gate, up and down. Not the logits, a router, experts, or what attention
multiplies.

Quantized as qwix's own training (QtProvider with weight, activation and backward types) does it, from its public
parts: the provider itself, put around a whole model, takes what attention multiplies for weights as well, and fails
where mesh axes are Explicit (0.1.8).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import qwix
from jax.sharding import PartitionSpec

from model.sharding import available_mesh_axes, flatten_axes, partition_of


class Format(NamedTuple):
    """What activations and weights, and what the gradients of a product's result, are rounded to."""

    value: jnp.dtype
    gradient: jnp.dtype


FORMATS = {
    "int8": Format(jnp.int8, jnp.int8),
    "fp8": Format(jnp.float8_e4m3fn, jnp.float8_e5m2),  # Micikevicius et al. 2022, 3
}


def project(x: jax.Array, weight: jax.Array, input_axes: int, name: str) -> jax.Array:
    """[…, I…] . [I…, O…] -> […, O…] over the weight's first `inputs` axes, in the format of this name.

    On a mesh every device quantizes what it holds, and partial results are summed in x's dtype: where a contracted
    axis is split, each part has scales of its own (finer ones), and no scale travels.
    """
    if available_mesh_axes():
        return project_sharded(x, weight, input_axes, name)
    return project_local(x, weight, input_axes, name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def project_sharded(x: jax.Array, weight: jax.Array, input_axes: int, name: str) -> jax.Array:
    """`project` over the mesh axes that are not manual yet.

    The backward pass is written out, from x and weight. What JAX (0.10 to 0.12) would keep for it by itself gets a
    sharding that the compiler refuses inside a pipeline; so forward is not checked (check_vma). Backward is: that is
    how a gathered weight's gradient stays unsummed.
    """
    x_lies, weight_lies = partition_of(x), partition_of(weight)
    kept, summed = x_lies[: x.ndim - input_axes], flatten_axes(*x_lies[x.ndim - input_axes :])

    def part(x, weight):
        return jax.lax.psum(project_local(x, weight, input_axes, name), summed)

    taken, made = (PartitionSpec(*x_lies), PartitionSpec(*weight_lies)), PartitionSpec(*kept, *weight_lies[input_axes:])
    run = jax.shard_map(part, in_specs=taken, out_specs=made, axis_names=available_mesh_axes(), check_vma=False)
    return run(x, jax.sharding.reshard(weight, taken[1]))


def sharded_forward(x, weight, input_axes, name):
    return project_sharded(x, weight, input_axes, name), (x, weight)


def sharded_backward(input_axes, name, saved, gradient):
    """Of x and weight. The weight's stays unsummed over the axes it was gathered from (sharding.gather)."""
    lies = [partition_of(array) for array in (*saved, gradient)]
    reduced = jax.typeof(saved[1]).sharding.spec.reduced
    split = [set(flatten_axes(*parts)) for parts in lies]
    used = split[0] | split[1]

    def part(x, weight, gradient):
        def each(x, weight):
            x, weight = mark_varying(x, used - split[0]), mark_varying(weight, used - split[1], reduced)
            return project_local(x, weight, input_axes, name)

        return jax.vjp(each, x, weight)[1](mark_varying(gradient, used - split[2]))

    taken = (PartitionSpec(*lies[0]), PartitionSpec(*lies[1], reduced=reduced), PartitionSpec(*lies[2]))
    made = (taken[0], PartitionSpec(*lies[1], unreduced=reduced))
    return jax.shard_map(part, in_specs=taken, out_specs=made, axis_names=available_mesh_axes())(*saved, gradient)


project_sharded.defvjp(sharded_forward, sharded_backward)


def mark_varying(x: jax.Array, axes: set[str], reduced: frozenset[str] = frozenset()) -> jax.Array:
    """x, from here on each device's own: its gradient is summed over the axes, but for those in `reduced`."""
    for group in (axes & reduced, axes - reduced):
        x = jax.lax.pcast(x, tuple(sorted(group)), to="varying") if group else x
    return x


def project_local(x: jax.Array, weight: jax.Array, input_axes: int, name: str) -> jax.Array:
    """`project` on one device's arrays."""
    made = (*x.shape[: x.ndim - input_axes], *weight.shape[input_axes:])
    features = math.prod(weight.shape[:input_axes])
    return matmul(x.reshape(-1, features), weight.reshape(features, -1), FORMATS[name]).reshape(made)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x_TI: jax.Array, weight_IO: jax.Array, form: Format) -> jax.Array:
    """[T, I] . [I, O] -> [T, O] of tokens' features, in x's dtype.

    One scale for each token and each output feature, so that scales leave the sum: the products are of 8-bit numbers,
    summed in int32 (exact up to 133,000 terms) or float32. The backward pass multiplies with the numbers saved
    here, after their scales have gone into the gradient, which is then rounded itself.
    """
    return forward(x_TI, weight_IO, form)[0]


def forward(x_TI, weight_IO, form):
    x, weight = quantize(x_TI, form.value, 0), quantize(weight_IO, form.value, 1)
    return dot(x, weight, 1, 0).astype(x_TI.dtype), (x, weight)


def backward(form, saved, gradient_TO):
    x, weight = saved
    for_x = quantize(gradient_TO * weight.scale, form.gradient, 0)
    for_weight = quantize(gradient_TO * x.scale, form.gradient, 1)
    x_TI, weight_IO = dot(for_x, weight.qvalue, 1, 1), dot(x.qvalue, for_weight, 0, 0)
    return x_TI.astype(gradient_TO.dtype), weight_IO.astype(gradient_TO.dtype)


matmul.defvjp(forward, backward)


def quantize(matrix: jax.Array, dtype: jnp.dtype, axis: int) -> qwix.QArray:
    """8-bit numbers and float32 scales, one for each entry of `axis`, from its largest magnitude."""
    return qwix.quantize(matrix.astype(jnp.float32), dtype, channelwise_axes=[axis])


def dot(a, b, over_a: int, over_b: int) -> jax.Array:
    """float32: two matrices multiplied over these axes, the scales of those that have any put back."""
    return qwix.dot_general(a, b, (((over_a,), (over_b,)), ((), ())))
