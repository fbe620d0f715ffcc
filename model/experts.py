"""The experts of a mixture: tokens to those they chose, grouped products, results back, over whatever mesh there is.

model/moe.py calls `routed`. On each device: its expert group's tokens, its own experts, its piece of their features.
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
    """The mesh axes that split tokens, and those that split experts, their width at rest and their hidden features;
    `copies`: those over which matrices are the same, and their gradients are summed. Empty where none does."""

    tokens: tuple[str, ...]
    experts: tuple[str, ...]
    width: tuple[str, ...]
    features: tuple[str, ...]
    copies: tuple[str, ...]


class Routes(NamedTuple):
    """How the choices of an expert group's M tokens become rows, R = M K: row r is choice order[r], and choice c is
    row back[c].

    Rows of one expert follow each other, as many as `sizes_E` says for each of the device's own. Those for experts of
    other devices come last, in no group: what a grouped product leaves there is undefined, forward and backward.
    """

    order_R: jax.Array
    back_R: jax.Array
    sizes_E: jax.Array

    def zero_foreign_rows(self, rows: jax.Array) -> jax.Array:
        """Rows [R, …] with zeros for those in no group."""
        return jnp.where((jnp.arange(len(rows)) < self.sizes_E.sum())[:, None], rows, 0)


def expert_mlp(x_BTD, chosen_BTK, weight_BTK, matrices: dict[str, jax.Array], activation: str) -> jax.Array:
    """[B, T, D] -> [B, T, D]: for each token the sum of its chosen experts' outputs, weighted; none is dropped.

    What travels, with n tokens on each of e expert shards: all tokens are gathered, results are summed and scattered,
    (e - 1) n D numbers each way. An all-to-all would send a token to the shards it chose only, min(e, K) of them at
    most: (e - 1) / e * min(e, K) n D. Up to e = K that is no less, and shapes are fixed here; at e = 8, K = 2 it is a
    quarter. Buffers hold e n K rows either way, since all tokens may choose one shard. Besides, matrices are gathered
    over data and context where they are used, forward and backward, and their gradients are scattered back.

    Rows are weighted before `down`: so its result is not needed for the gradient of the weights. On CPU XLA multiplies
    every row with every expert: K times the work of all experts on all tokens.
    """
    over, count = expert_axes(x_BTD, matrices["up"]), len(matrices["up"]) // shard_count("experts")
    rows, hidden = PartitionSpec(over.tokens), PartitionSpec(over.tokens, over.features)
    routes = shard_map_remat(functools.partial(sort_by_expert, over, count), Routes(rows, rows, rows), chosen_BTK)
    rows_RD, weight_R1 = shard_map_remat(functools.partial(dispatch, over), (rows, rows), x_BTD, weight_BTK, routes)
    into = {name: matrix for name, matrix in matrices.items() if name != "down"}
    made = shard_map_remat(functools.partial(expert_matmuls, over), dict.fromkeys(into, hidden), rows_RD, into, routes)
    made = {name: checkpoint_name(product, name) for name, product in made.items()}
    active = ACTIVATIONS[activation]
    hidden_RF = active(made["gate"]) * made["up"] if "gate" in made else active(made["up"])
    hidden_RF = (hidden_RF * weight_R1).astype(x_BTD.dtype)
    back = functools.partial(combine, over, chosen_BTK.shape[1] // shard_count("time"), chosen_BTK.shape[2])
    return shard_map_remat(back, PartitionSpec(*partition_of(x_BTD)), hidden_RF, matrices["down"], routes)


def expert_axes(x_BTD: jax.Array, up_EDF: jax.Array) -> ExpertAxes:
    batch, time, _ = partition_of(x_BTD)
    reduced = () if jax.sharding.get_abstract_mesh().empty else jax.typeof(up_EDF).sharding.spec.reduced
    return ExpertAxes(flatten_axes(batch, time), *map(flatten_axes, partition_of(up_EDF)), copies=tuple(reduced))


def shard_map_remat(function: Callable, made, *given):
    """function(*given) on every device's part of the arrays as they lie; its results are split as `made` says.

    Nothing is kept for the backward pass but what goes in: what JAX (0.10 to 0.12) would keep of the inside gets a
    sharding that the compiler refuses in a pipeline. What is computed again is little, since each function is linear.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(*given)
    taken = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, given)
    return jax.shard_map(jax.checkpoint(function), in_specs=taken, out_specs=made, axis_names=available_mesh_axes())(
        *given
    )


def all_gather(over: tuple[str, ...], x: jax.Array, axis: int = 0) -> jax.Array:
    """The pieces of an axis that mesh axes hold, together; x where there are none."""
    return jax.lax.all_gather(x, over, axis=axis, tiled=True) if over else x


def sort_by_expert(over: ExpertAxes, count: int, chosen_BTK: jax.Array) -> Routes:
    """The routes to a device's `count` experts."""
    first = jax.lax.axis_index(over.experts) * count if over.experts else 0
    expert_R = all_gather(over.experts, chosen_BTK).reshape(-1) - first
    expert_R = jnp.where((expert_R >= 0) & (expert_R < count), expert_R, count)
    order_R = jnp.argsort(expert_R)
    sizes_E = (expert_R[:, None] == jnp.arange(count)).sum(0, dtype=jnp.int32)
    return Routes(order_R, jnp.argsort(order_R), sizes_E)


def dispatch(over: ExpertAxes, x_BTD: jax.Array, weight_BTK: jax.Array, routes: Routes) -> tuple[jax.Array, jax.Array]:
    """Every choice's token [R, D] and weight [R, 1], by expert."""
    x_MD, weight_MK = (all_gather(over.experts, x).reshape(-1, x.shape[-1]) for x in (x_BTD, weight_BTK))
    choices_RD, weight_R1 = jnp.repeat(x_MD, weight_MK.shape[1], axis=0), weight_MK.reshape(-1, 1)
    return tuple(
        routes.zero_foreign_rows(permute_rows(x, routes.order_R, routes.back_R)) for x in (choices_RD, weight_R1)
    )


def expert_matmuls(
    over: ExpertAxes, rows_RD: jax.Array, matrices: dict[str, jax.Array], routes: Routes
) -> dict[str, jax.Array]:
    """Each row with the matrices [E, D, F] of its expert."""
    whole = {name: gather_width(over, matrix, 1) for name, matrix in matrices.items()}
    return {name: grouped_matmul(rows_RD, matrix, routes.sizes_E) for name, matrix in whole.items()}


def combine(over: ExpertAxes, length: int, active: int, hidden_RF: jax.Array, down_EFD: jax.Array, routes: Routes):
    """Each row with `down` [E, F, D] of its expert, and for each token of the device their sum [B, T, D]."""
    out_RD = routes.zero_foreign_rows(grouped_matmul(hidden_RF, gather_width(over, down_EFD, 2), routes.sizes_E))
    out_MKD = permute_rows(out_RD, routes.back_R, routes.order_R).reshape(-1, active, out_RD.shape[-1])
    out_MD = at_least_float32(out_MKD).sum(1).astype(hidden_RF.dtype)
    if over.experts:
        out_MD = jax.lax.psum_scatter(out_MD, over.experts, scatter_dimension=0, tiled=True)
    if over.features:
        out_MD = jax.lax.psum(out_MD, over.features)
    return out_MD.reshape(-1, length, out_MD.shape[-1])


def gather_width(over: ExpertAxes, matrix: jax.Array, axis: int) -> jax.Array:
    """An expert matrix with its width, this axis, whole. Its gradient is scattered first, then summed over copies."""
    if over.copies:
        matrix = jax.lax.pcast(matrix, over.copies, to="varying")
    return all_gather(over.width, matrix, axis)


@jax.custom_vjp
def permute_rows(x_RD: jax.Array, order_R: jax.Array, back_R: jax.Array) -> jax.Array:
    """x[order], whose gradient is read in the order `back` instead of being scattered, row by row, into zeros."""
    return x_RD[order_R]


permute_rows.defvjp(
    lambda x_RD, order_R, back_R: (x_RD[order_R], back_R),
    lambda back_R, gradient_RD: (gradient_RD[back_R], None, None),
)
