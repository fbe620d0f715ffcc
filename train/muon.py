"""Muon (Jordan et al. 2024) as an optax transform: momentum, then every matrix's update made orthogonal.

optax's own fails under Explicit sharding and sees only two-dimensional parameters. Called by train/optimizer.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model.layers import stacked_axes
from model.sharding import distribute, partition_spec, replicate
from train.config import Muon

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic: singular values end in [0.7, 1.2], not at 1


class MuonState(NamedTuple):
    momentum: optax.Updates


def orthogonalize(matrices_LMN: jax.Array, iterations: int) -> jax.Array:
    """Newton-Schulz steps on a stack of matrices: U V' of each one's singular value decomposition, roughly."""
    a, b, c = COEFFICIENTS
    tall = matrices_LMN.shape[1] > matrices_LMN.shape[2]
    x = jnp.swapaxes(matrices_LMN, 1, 2) if tall else matrices_LMN
    x = x / (jnp.sqrt(jnp.square(x).sum((1, 2), keepdims=True)) + 1e-7)
    for _ in range(iterations):
        gram = jnp.einsum("lmn,lkn->lmk", x, x)
        x = a * x + jnp.einsum("lmk,lkn->lmn", b * gram + c * jnp.einsum("lmk,lkn->lmn", gram, gram), x)
    return jnp.swapaxes(x, 1, 2) if tall else x


def matrix_shape(parameter: nnx.Param) -> tuple[int, int, int]:
    """(matrices, inputs, outputs) of a parameter that layers, or each of their experts, use as a matrix."""
    shape, first = parameter[...].shape, stacked_axes(parameter.axes)
    last = first + parameter.input_axes
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])


def scale_by_muon(config: Muon) -> optax.GradientTransformation:
    """Momentum and orthogonalisation of stacked matrices (parameters with an axis L in front, or L and E).

    The update of an inputs x outputs matrix is scaled by sqrt(max(1, outputs / inputs)), so that one rate serves every
    shape. Matrices of one shape are worked on together, dealt out over all devices one by one.
    """

    def init(parameters):
        return MuonState(jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients, state, parameters=None):
        del parameters
        momentum = jax.tree.map(lambda m, g: config.momentum * m + g, state.momentum, gradients)
        ahead = momentum
        if config.nesterov:
            ahead = jax.tree.map(lambda m, g: config.momentum * m + g, momentum, gradients)
        leaves, tree = jax.tree.flatten(ahead, is_leaf=lambda x: isinstance(x, nnx.Param))
        ours = [bool(jax.tree.leaves(leaf)) for leaf in leaves]  # optax.partition empties the other parameters
        turned = iter(
            orthogonalize_by_shape([leaf for leaf, mine in zip(leaves, ours, strict=True) if mine], config.iterations)
        )
        leaves = [next(turned) if mine else leaf for leaf, mine in zip(leaves, ours, strict=True)]
        return jax.tree.unflatten(tree, leaves), MuonState(momentum)

    return optax.GradientTransformation(init, update)


def orthogonalize_by_shape(parameters: list[nnx.Param], iterations: int) -> list[nnx.Param]:
    """Orthogonal updates of all parameters; those of one matrix shape (or its transpose) share their matmuls."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, parameter in enumerate(parameters):
        _, rows, columns = matrix_shape(parameter)
        groups.setdefault((min(rows, columns), max(rows, columns)), []).append(index)
    done: dict[int, nnx.Param] = {}
    for members in groups.values():
        stacks = []
        for index in members:
            layers, rows, columns = matrix_shape(parameters[index])
            stack = replicate(parameters[index][...]).reshape(layers, rows, columns)
            stacks.append(jnp.swapaxes(stack, 1, 2) if rows > columns else stack)
        whole = orthogonalize(distribute(jnp.concatenate(stacks)), iterations)
        whole = replicate(whole)
        start = 0
        for index in members:
            parameter = parameters[index]
            layers, rows, columns = matrix_shape(parameter)
            stack = whole[start : start + layers]
            start += layers
            stack = jnp.swapaxes(stack, 1, 2) if rows > columns else stack
            value = (stack * math.sqrt(max(1.0, columns / rows))).reshape(parameter[...].shape)
            home = partition_spec(parameter.axes, value.shape, "storage")
            done[index] = parameter.replace(value if home is None else jax.sharding.reshard(value, home))
    return [done[index] for index in range(len(parameters))]
