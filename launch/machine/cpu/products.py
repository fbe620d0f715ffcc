"""Products of float32 arrays with operands in bfloat16, and weights' gradients as rows times columns.

AVX-512 multiplies bfloat16 twice as fast as float32, and XLA's CPU compiler does so with operands that are given to it
in bfloat16; to the precision BF16_BF16_F32 it does not listen. So operands are rounded here, each once for all its
products. A weight's gradient sums over the tokens, the first axis of both operands: the compiler would multiply that in
float32, at half the rate. So one operand, the smaller one, is copied with its axes exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend import core

LEAST = 8192  # elements of an operand: smaller ones gain nothing, and stay in float32


def is_roundable(e: core.JaxprEqn) -> bool:
    """Whether an equation is a product whose operands may be rounded, and are worth it."""
    if e.primitive.name != "dot_general" or e.params["precision"] is not None:
        return False
    large = all(v.aval.dtype == jnp.float32 and v.aval.size >= LEAST for v in (*e.invars, *e.outvars))
    return large and not is_vector(e)


def is_vector(e: core.JaxprEqn) -> bool:
    """Whether a product is one of vectors: the compiler has none of those for a batch in bfloat16, and fails."""
    contracted, batch = e.params["dimension_numbers"]
    free = [
        v.aval.size // math.prod(v.aval.shape[axis] for axis in (*summed, *apart))
        for v, summed, apart in zip(e.invars, contracted, batch, strict=True)
    ]
    return min(free) == 1


class RoundedProducts:
    """Computes such equations of one traced program, and keeps the rounded copies of its values."""

    def __init__(self):
        self.copies: dict = {}

    def multiply(self, e: core.JaxprEqn, numbers: Sequence[int], lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """The product of such an equation, whose operands have these numbers in the program."""
        (left, right), sharding = numbers, e.params["out_sharding"]
        (left_summed, right_summed), (left_batch, right_batch) = e.params["dimension_numbers"]
        left_order = axes_in_order(lhs.ndim, first=left_batch, last=left_summed)
        right_order = axes_in_order(rhs.ndim, first=right_batch)
        result = e.outvars[0].aval
        if left_batch or not is_cheaper_exchanged(lhs, rhs, result, left_order, right_summed):
            axes = places(left_order, left_summed, left_batch), places(right_order, right_summed, right_batch)
            return contract(self.copy(left, lhs, left_order), self.copy(right, rhs, right_order), axes, sharding)
        # A transpose follows a weight's gradient in a traced program: it undoes this one.
        right_order = axes_in_order(rhs.ndim, last=right_summed)
        axes = places(right_order, right_summed), places(range(lhs.ndim), left_summed)
        left_free = lhs.ndim - len(left_summed)
        exchanged = permute(sharding, [*range(left_free, result.ndim), *range(left_free)])
        product = contract(self.copy(right, rhs, right_order), self.copy(left, lhs), axes, exchanged)
        right_free = rhs.ndim - len(right_summed)
        return product.transpose(*range(right_free, result.ndim), *range(right_free))

    def copy(self, number: int, x: jax.Array, order: Sequence[int] = ()) -> jax.Array:
        """x in bfloat16, its axes in this order: a copy in memory."""
        order = tuple(order) or tuple(range(x.ndim))
        if (number, order) not in self.copies:
            own = order == tuple(range(x.ndim))
            copy = x.astype(jnp.bfloat16) if own else self.copy(number, x).transpose(order)
            self.copies[number, order] = jax.lax.optimization_barrier(copy)
        return self.copies[number, order]


def is_cheaper_exchanged(lhs, rhs, result, left_order: Sequence[int], right_summed: Sequence[int]) -> bool:
    """Whether the product rhs . lhs copies less than lhs . rhs: where both sum over their first axes, as weights'
    gradients do, and the right operand is the smaller one."""
    both_first = list(right_summed) == list(range(len(right_summed))) and list(left_order) != list(range(lhs.ndim))
    return both_first and lhs.size + result.size >= rhs.size


def axes_in_order(count: int, first: Sequence[int] = (), last: Sequence[int] = ()) -> list[int]:
    """The axes 0 .. count with these in front and those behind, the others in their order."""
    return [*first, *(axis for axis in range(count) if axis not in (*first, *last)), *last]


def places(order: Sequence[int], *groups: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Each group of axes by its places in the order."""
    return tuple(tuple(list(order).index(axis) for axis in group) for group in groups)


def contract(lhs: jax.Array, rhs: jax.Array, axes, sharding) -> jax.Array:
    """The product over these axes, (summed, batch) of each operand, its sums in float32. A barrier keeps the compiler
    from exchanging what it is made of: of some forms it has no product in bfloat16, and fails when it runs."""
    (left_summed, *left_batch), (right_summed, *right_batch) = axes
    numbers = (left_summed, right_summed), (tuple(*left_batch), tuple(*right_batch))
    product = jax.lax.dot_general(lhs, rhs, numbers, preferred_element_type=jnp.float32, out_sharding=sharding)
    return jax.lax.optimization_barrier(product)


def permute(sharding, order: list[int]):
    """The sharding of an array whose axes are taken in another order."""
    if sharding is None:
        return None
    spec = sharding.spec
    partitions = [*spec.partitions, *[None] * (len(order) - len(spec.partitions))]
    partitions = [partitions[axis] for axis in order]
    return jax.sharding.NamedSharding(sharding.mesh, jax.P(*partitions, unreduced=spec.unreduced, reduced=spec.reduced))
