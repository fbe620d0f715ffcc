"""Muon (Jordan et al. 2024) as an optax transform: momentum, then the update of every matrix is orthogonalised.

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

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic polynomial: singular values end in [0.7, 1.2], not at 1


class MuonState(NamedTuple):
    momentum: optax.Updates


def orthogonalize(matrices_LMN: jax.Array, iterations: int) -> jax.Array:
    """U V' of each matrix's singular value decomposition U S V', roughly, by Newton-Schulz steps."""
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
    shape, first_input = parameter[...].shape, stacked_axes(parameter.axes)
    first_output = first_input + parameter.input_axes
    return math.prod(shape[:first_input]), math.prod(shape[first_input:first_output]), math.prod(shape[first_output:])


def scale_by_muon(config: Muon) -> optax.GradientTransformation:
    """Momentum and orthogonalisation of stacked matrices (parameters with an axis L in front, or L and E).

    The update of an inputs x outputs matrix is scaled by sqrt(max(1, outputs / inputs)), so that one rate serves every
    shape. Matrices of one shape are orthogonalised together, each whole on one of the devices.
    """

    def init(parameters):
        return MuonState(jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients, state, parameters=None):
        del parameters
        momentum = jax.tree.map(lambda m, g: config.momentum * m + g, state.momentum, gradients)
        updates = momentum
        if config.nesterov:
            updates = jax.tree.map(lambda m, g: config.momentum * m + g, momentum, gradients)
        leaves, tree = jax.tree.flatten(updates, is_leaf=lambda x: isinstance(x, nnx.Param))
        is_own = [bool(jax.tree.leaves(leaf)) for leaf in leaves]  # optax.partition empties the other parameters
        orthogonal = iter(
            orthogonalize_by_shape([leaf for leaf, own in zip(leaves, is_own, strict=True) if own], config.iterations)
        )
        leaves = [next(orthogonal) if own else leaf for leaf, own in zip(leaves, is_own, strict=True)]
        return jax.tree.unflatten(tree, leaves), MuonState(momentum)

    return optax.GradientTransformation(init, update)


def orthogonalize_by_shape(parameters: list[nnx.Param], iterations: int) -> list[nnx.Param]:
    """Orthogonalised updates of all parameters; those of one matrix shape (or its transpose) share their matmuls."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, parameter in enumerate(parameters):
        _, rows, columns = matrix_shape(parameter)
        groups.setdefault((min(rows, columns), max(rows, columns)), []).append(index)
    updates: dict[int, nnx.Param] = {}
    for members in groups.values():
        stacks = []
        for index in members:
            layers, rows, columns = matrix_shape(parameters[index])
            stack = replicate(parameters[index][...]).reshape(layers, rows, columns)
            stacks.append(jnp.swapaxes(stack, 1, 2) if rows > columns else stack)
        matrices = orthogonalize(distribute(jnp.concatenate(stacks)), iterations)
        matrices = replicate(matrices)
        start = 0
        for index in members:
            parameter = parameters[index]
            layers, rows, columns = matrix_shape(parameter)
            stack = matrices[start : start + layers]
            start += layers
            stack = jnp.swapaxes(stack, 1, 2) if rows > columns else stack
            value = (stack * math.sqrt(max(1.0, columns / rows))).reshape(parameter[...].shape)
            spec = partition_spec(parameter.axes, value.shape, "storage")
            updates[index] = parameter.replace(value if spec is None else jax.sharding.reshard(value, spec))
    return [updates[index] for index in range(len(parameters))]
