"""Adafactor (Shazeer & Stern 2018) as an optax transform: it keeps row and column means of a matrix's second moments.

optax's own takes an array's two largest axes for its matrix. In a stack of attention's, [L, D, N, H], with narrow heads
these two are no matrix at all. Called by train/optimizer.py.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model.layers import stacked_axes
from train.config import Adafactor

EPSILON = 1e-30  # the paper's epsilon 1: added to squares, so that no mean is 0


class AdafactorState(NamedTuple):
    """Running means of squared gradients: `rows` over each matrix's outputs, `columns` over its inputs. The averaged
    axes stay, with size 1."""

    count: jax.Array
    rows: optax.Updates
    columns: optax.Updates


def matrix_axes(parameter: nnx.Param) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(inputs, outputs): the axes of one matrix of a stack of layers or experts. A vector counts as a matrix with one
    output; its row means are its second moments themselves."""
    ndim, first_input = parameter[...].ndim, stacked_axes(parameter.axes)
    first_output = first_input + parameter.input_axes if parameter.input_axes else ndim
    return tuple(range(first_input, first_output)), tuple(range(first_output, ndim))


def scale_by_adafactor(config: Adafactor) -> optax.GradientTransformation:
    """Divides gradients by the root of their factored second moments (algorithm 4), in each layer's and each expert's
    matrix by itself. The share of the past at update t is 1 - t^-decay (section 7.2): no mean begins biased towards 0.
    """

    def init(parameters):
        rows = map_parameters(lambda p: jnp.zeros_like(second_moment_means(p)[0]), parameters)
        columns = map_parameters(lambda p: jnp.zeros_like(second_moment_means(p)[1]), parameters)
        return AdafactorState(jnp.zeros((), jnp.int32), rows, columns)

    def update(gradients, state, parameters=None):
        del parameters
        new_share = (state.count + 1.0) ** -config.decay

        def update_mean(mean, new):
            return mean + new_share * (new - mean)

        rows = map_parameters(lambda g, r: update_mean(r[...], second_moment_means(g)[0]), gradients, state.rows)
        columns = map_parameters(lambda g, c: update_mean(c[...], second_moment_means(g)[1]), gradients, state.columns)
        return map_parameters(scale_by_factors, gradients, rows, columns), AdafactorState(
            state.count + 1, rows, columns
        )

    return optax.GradientTransformation(init, update)


def second_moment_means(gradient: nnx.Param) -> tuple[jax.Array, jax.Array]:
    """Means of a gradient's squares over the outputs, and over the inputs, of each matrix."""
    inputs, outputs = matrix_axes(gradient)
    square = jnp.square(gradient[...]) + EPSILON
    return square.mean(outputs, keepdims=True), square.mean(inputs, keepdims=True)


def scale_by_factors(gradient: nnx.Param, rows: nnx.Param, columns: nnx.Param) -> jax.Array:
    """gradient / sqrt(rows columns / mean of rows), in an order in which a gradient of 0 meets no infinity."""
    inputs, _ = matrix_axes(gradient)
    mean = rows[...].mean(inputs, keepdims=True)
    return gradient[...] * jax.lax.rsqrt(rows[...]) * (jnp.sqrt(mean) * jax.lax.rsqrt(columns[...]))


def map_parameters(function, parameters, *others):
    """`function` of every parameter. Those that optax.partition emptied belong to other rules, and stay as they are."""

    def apply(parameter: nnx.Param, *rest: nnx.Param) -> nnx.Param:
        return parameter.replace(function(parameter, *rest)) if jax.tree.leaves(parameter) else parameter

    return jax.tree.map(apply, parameters, *others, is_leaf=lambda x: isinstance(x, nnx.Param))
