"""The experts of a mixture: tokens are sent to the experts they chose, multiplied in groups, and sent back.

model/moe.py calls `expert_mlp`, on any mesh. Each device has its expert group's tokens, its own experts, and its piece
of their features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from model.kernels import grouped_matmul
from model.layers import at_least_float32
from model.mlp import ACTIVATIONS
from model.sharding import available_mesh_axes, flatten_axes, partition_of, shard_count


class ExpertAxes(NamedTuple):
    """The mesh axes that split tokens, experts, the width of the experts' matrices at rest, and their hidden features;
    `replicated`: those over which matrices are the same, and their gradients are summed. Each may be empty."""

    tokens: tuple[str, ...]
    experts: tuple[str, ...]
    width: tuple[str, ...]
    features: tuple[str, ...]
    replicated: tuple[str, ...]


class Routes(NamedTuple):
    """The order in which the R = M K choices of an expert group's M tokens are sorted into rows, by expert.

    Row r is choice order[r], and choice c is row inverse_order[c]. Each of the device's own experts has its group of
    successive rows, group_sizes[e] of them. Rows for experts of other devices come last and are in no group: what a
    grouped product leaves there is undefined, forward and backward.
    """

    order_R: jax.Array
    inverse_order_R: jax.Array
    group_sizes_E: jax.Array

    def zero_foreign_rows(self, rows: jax.Array) -> jax.Array:
        """The rows [R, …], with zeros in those that are in no group."""
        return jnp.where((jnp.arange(len(rows)) < self.group_sizes_E.sum())[:, None], rows, 0)


def expert_mlp(x_BTD, expert_BTK, weight_BTK, matrices: dict[str, jax.Array], activation: str) -> jax.Array:
    """The weighted sum of each token's chosen experts' outputs: [B, T, D] -> [B, T, D]. No token is dropped.

    With n tokens on each of e expert shards, all tokens are gathered, and results are summed and scattered: (e - 1) n D
    numbers travel each way. An all-to-all would send a token only to the shards it chose, min(e, K) of them at most:
    (e - 1) / e * min(e, K) n D numbers. Up to e = K that is no less, and here shapes are fixed; at e = 8, K = 2 it is a
    quarter. Buffers hold e n K rows either way, since all tokens may choose one shard. Besides, matrices are gathered
    over data and context where they are used, forward and backward, and their gradients are scattered back.

    Rows are weighted before `down`, so that the gradient of the weights does not need the output of `down`.
    """
    axes, expert_count = expert_axes(x_BTD, matrices["up"]), len(matrices["up"]) // shard_count("experts")
    row_spec, hidden_spec = PartitionSpec(axes.tokens), PartitionSpec(axes.tokens, axes.features)
    sort = functools.partial(sort_by_expert, axes, expert_count)
    routes = shard_map_remat(sort, Routes(row_spec, row_spec, row_spec), expert_BTK)
    dispatch_tokens = functools.partial(dispatch, axes)
    rows_RD, weight_R1 = shard_map_remat(dispatch_tokens, (row_spec, row_spec), x_BTD, weight_BTK, routes)
    gate_up = {name: matrix for name, matrix in matrices.items() if name != "down"}
    matmuls, out_specs = functools.partial(expert_matmuls, axes), dict.fromkeys(gate_up, hidden_spec)
    products = shard_map_remat(matmuls, out_specs, rows_RD, gate_up, routes)
    products = {name: checkpoint_name(product, name) for name, product in products.items()}
    activate = ACTIVATIONS[activation]
    hidden_RF = activate(products["gate"]) * products["up"] if "gate" in products else activate(products["up"])
    hidden_RF = (hidden_RF * weight_R1).astype(x_BTD.dtype)
    combine_rows = functools.partial(combine, axes, expert_BTK.shape[1] // shard_count("time"), expert_BTK.shape[2])
    return shard_map_remat(combine_rows, PartitionSpec(*partition_of(x_BTD)), hidden_RF, matrices["down"], routes)


def expert_axes(x_BTD: jax.Array, up_EDF: jax.Array) -> ExpertAxes:
    batch, time, _ = partition_of(x_BTD)
    reduced = () if jax.sharding.get_abstract_mesh().empty else jax.typeof(up_EDF).sharding.spec.reduced
    return ExpertAxes(flatten_axes(batch, time), *map(flatten_axes, partition_of(up_EDF)), replicated=tuple(reduced))


def shard_map_remat(function: Callable, out_specs, *arrays):
    """Calls function(*arrays) on each device's shards, and recomputes it in the backward pass. Arrays (or trees of
    them) stay split as they are; `out_specs` are those of the results.

    Only the arrays are saved for the backward pass. What JAX (0.10 to 0.12) would save of the inside gets a sharding
    that the compiler refuses in a pipeline. Little is recomputed, since each function is linear.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(*arrays)
    specs = {"in_specs": jax.tree.map(lambda x: jax.typeof(x).sharding.spec, arrays), "out_specs": out_specs}
    return jax.shard_map(jax.checkpoint(function), **specs, axis_names=available_mesh_axes())(*arrays)


def all_gather(mesh_axes: tuple[str, ...], x: jax.Array, axis: int = 0) -> jax.Array:
    """x with this axis gathered over the mesh axes; x itself where there are none."""
    return jax.lax.all_gather(x, mesh_axes, axis=axis, tiled=True) if mesh_axes else x


def sort_by_expert(axes: ExpertAxes, count: int, expert_BTK: jax.Array) -> Routes:
    """The routes to a device's `count` experts."""
    first = jax.lax.axis_index(axes.experts) * count if axes.experts else 0
    expert_R = all_gather(axes.experts, expert_BTK).reshape(-1) - first
    expert_R = jnp.where((expert_R >= 0) & (expert_R < count), expert_R, count)
    order_R = jnp.argsort(expert_R)
    group_sizes_E = (expert_R[:, None] == jnp.arange(count)).sum(0, dtype=jnp.int32)
    return Routes(order_R, jnp.argsort(order_R), group_sizes_E)


def dispatch(axes: ExpertAxes, x_BTD: jax.Array, weight_BTK: jax.Array, routes: Routes) -> tuple[jax.Array, jax.Array]:
    """The token [R, D] and the weight [R, 1] of every choice, sorted by expert."""
    x_MD, weight_MK = (all_gather(axes.experts, x).reshape(-1, x.shape[-1]) for x in (x_BTD, weight_BTK))
    choices_RD, weight_R1 = jnp.repeat(x_MD, weight_MK.shape[1], axis=0), weight_MK.reshape(-1, 1)
    return tuple(
        routes.zero_foreign_rows(permute_rows(x, routes.order_R, routes.inverse_order_R))
        for x in (choices_RD, weight_R1)
    )


def expert_matmuls(
    axes: ExpertAxes, rows_RD: jax.Array, matrices: dict[str, jax.Array], routes: Routes
) -> dict[str, jax.Array]:
    """Each row multiplied with the matrices [E, D, F] of its expert."""
    gathered = {name: gather_width(axes, matrix, 1) for name, matrix in matrices.items()}
    return {name: grouped_matmul(rows_RD, matrix, routes.group_sizes_E) for name, matrix in gathered.items()}


def combine(axes: ExpertAxes, length: int, active: int, hidden_RF: jax.Array, down_EFD: jax.Array, routes: Routes):
    """Multiplies each row with `down` [E, F, D] of its expert, and sums the rows of each of the device's tokens:
    [B, T, D]."""
    out_RD = routes.zero_foreign_rows(grouped_matmul(hidden_RF, gather_width(axes, down_EFD, 2), routes.group_sizes_E))
    out_MKD = permute_rows(out_RD, routes.inverse_order_R, routes.order_R).reshape(-1, active, out_RD.shape[-1])
    out_MD = at_least_float32(out_MKD).sum(1).astype(hidden_RF.dtype)
    if axes.experts:
        out_MD = jax.lax.psum_scatter(out_MD, axes.experts, scatter_dimension=0, tiled=True)
    if axes.features:
        out_MD = jax.lax.psum(out_MD, axes.features)
    return out_MD.reshape(-1, length, out_MD.shape[-1])


def gather_width(axes: ExpertAxes, matrix: jax.Array, axis: int) -> jax.Array:
    """An expert matrix gathered along this axis, its width. Its gradient is scattered, then summed over replicas."""
    if axes.replicated:
        matrix = jax.lax.pcast(matrix, axes.replicated, to="varying")
    return all_gather(axes.width, matrix, axis)


@jax.custom_vjp
def permute_rows(x_RD: jax.Array, order_R: jax.Array, inverse_order_R: jax.Array) -> jax.Array:
    """x[order]. Its gradient is gathered in the inverse order, instead of being scattered, row by row, into zeros."""
    return x_RD[order_R]


permute_rows.defvjp(
    lambda x_RD, order_R, inverse_order_R: (x_RD[order_R], inverse_order_R),
    lambda inverse_order_R, gradient_RD: (gradient_RD[inverse_order_R], None, None),
)
