"""Optimization barriers in a traced program, so that XLA's CPU compiler computes a shared value once.

The compiler fuses a value into each of its readers and computes it again in all of them: in a training step the
gradient of the residual stream again for every weight. A barrier behind the value keeps it in memory. The barriers are
put into the traced program here, so that the layers need none. Where rounding is allowed, products.py multiplies.
"""

from __future__ import annotations

import collections
import functools
import math
from typing import NamedTuple

import jax
from jax.extend import core

from launch.machine.cpu.products import RoundedProducts, is_roundable

LARGE = 20_000  # elements: smaller values are cheaper to compute again than to keep
COPIES = ("reshape", "transpose", "broadcast_in_dim", "convert_element_type", "squeeze", "slice", "neg", "copy", "iota")
COPIES += ("reshard", "stop_gradient", "optimization_barrier")


def rewrite(function, rounded: bool = False):
    """The same function of pytrees, with a barrier behind every large value that is read more than once. `rounded`: the
    operands of its products in bfloat16."""

    @functools.wraps(function)
    def rewritten(*arguments):
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = Rewriter(traced, rounded).run(jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


class Equation(NamedTuple):
    """An equation of a program whose calls are put in line: its inputs and outputs by their numbers there."""

    own: core.JaxprEqn
    inputs: list[int]
    outputs: list[int]


class Rewriter:
    """A traced program, with calls put in line, that runs equation by equation in its own way."""

    def __init__(self, traced: core.ClosedJaxpr, rounded: bool):
        self.values: list = []  # by number; None: not computed yet
        self.equations: list[Equation] = []
        self.inputs = [self.number() for _ in traced.jaxpr.invars]
        self.outputs = self.put_in_line(traced, self.inputs)
        self.readers = collections.Counter(number for e in self.equations for number in e.inputs)
        self.rounded = rounded

    def number(self, value=None) -> int:
        """The number of a new value."""
        self.values.append(value)
        return len(self.values) - 1

    def put_in_line(self, traced: core.ClosedJaxpr, inputs: list[int]) -> list[int]:
        """Adds the equations of a program to this one's; the numbers of its results."""
        jaxpr = traced.jaxpr
        numbers = dict(zip(jaxpr.invars, inputs, strict=True))
        numbers |= {v: self.number(value) for v, value in zip(jaxpr.constvars, traced.consts, strict=True)}

        def read(v) -> int:
            return numbers[v] if isinstance(v, core.Var) else self.number(v.val)

        for e in jaxpr.eqns:
            read_here = list(map(read, e.invars))
            if e.primitive.name in ("jit", "pjit"):
                made = self.put_in_line(e.params["jaxpr"], read_here)
            else:
                made = [self.number() for _ in e.outvars]
                self.equations.append(Equation(e, read_here, made))
            numbers |= dict(zip(e.outvars, made, strict=True))
        return list(map(read, jaxpr.outvars))

    def run(self, arguments: list) -> list:
        """The program's results."""
        values, products = list(self.values), RoundedProducts()
        for number, value in zip(self.inputs, arguments, strict=True):
            values[number] = value
        for e in self.equations:
            results = self.compute(e, [values[number] for number in e.inputs], products)
            for number, value in zip(e.outputs, results, strict=True):
                values[number] = value
        return [values[number] for number in self.outputs]

    def compute(self, e: Equation, inputs: list, products: RoundedProducts) -> list:
        if self.rounded and is_roundable(e.own):
            results = [products.multiply(e.own, e.inputs, *inputs)]
        elif e.own.primitive.name == "scan":
            results = bind(e.own, inputs, jaxpr=rewrite_body(e.own.params["jaxpr"], self.rounded))
        else:
            results = bind(e.own, inputs)
        return [jax.lax.optimization_barrier(x) if self.needs_barrier(e) else x for x in results]

    def needs_barrier(self, e: Equation) -> bool:
        """Whether an equation's one result is worth keeping: large, costlier than a copy, and read more than once."""
        once = len(e.outputs) > 1 or self.readers[e.outputs[0]] < 2
        return not once and math.prod(e.own.outvars[0].aval.shape) >= LARGE and e.own.primitive.name not in COPIES


def rewrite_body(traced: core.ClosedJaxpr, rounded: bool) -> core.ClosedJaxpr:
    """The body of a loop, rewritten."""
    rewriter = Rewriter(traced, rounded)
    return jax.make_jaxpr(lambda *inputs: rewriter.run(inputs))(*(v.aval for v in traced.jaxpr.invars))


def bind(e: core.JaxprEqn, inputs: list, **changed) -> list:
    """The results of one equation, with some of its parameters changed."""
    parameters = e.primitive.get_bind_params({**e.params, **changed})
    if isinstance(parameters, tuple):  # JAX before 0.10 and some primitives: functions apart
        functions, parameters = parameters
        inputs = [*functions, *inputs]
    with e.ctx.manager:
        results = e.primitive.bind(*inputs, **parameters)
    return list(results) if e.primitive.multiple_results else [results]
