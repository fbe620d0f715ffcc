"""Optimization barriers in a traced program, so that XLA's CPU compiler computes a shared value once.

The compiler fuses a value into each of its readers and computes it again in all of them: in a training step the
gradient of the residual stream again for every weight. A barrier behind the value keeps it in memory. The barriers are
put into the traced program here, so that the layers need none. Where rounding is allowed, products.py multiplies.
"""

from __future__ import annotations

import collections
import functools
import math

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
        program = rewrite_program(traced, rounded)
        results = evaluate(program, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def rewrite_program(traced: core.ClosedJaxpr, rounded: bool) -> core.ClosedJaxpr:
    """The program with inner calls put in line, then with barriers behind shared values, and with rounded products."""
    shapes = [v.aval for v in traced.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *inputs: evaluate(traced, inputs))(*shapes)
    return jax.make_jaxpr(lambda *inputs: evaluate(flat, inputs, Rewriter(flat.jaxpr, rounded)))(*shapes)


class Rewriter:
    """Computes the equations of one traced program in its own way. `rounded`: products with operands in bfloat16."""

    def __init__(self, jaxpr: core.Jaxpr, rounded: bool):
        self.rounded, self.products = rounded, RoundedProducts()
        self.readers = collections.Counter(v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var))

    def results(self, e: core.JaxprEqn, inputs: list) -> list:
        if self.rounded and is_roundable(e):
            results = [self.products.multiply(e, *inputs)]
        elif e.primitive.name == "scan":
            results = bind(e, inputs, jaxpr=rewrite_program(e.params["jaxpr"], self.rounded))
        else:
            results = bind(e, inputs)
        return [jax.lax.optimization_barrier(x) if self.needs_barrier(e) else x for x in results]

    def needs_barrier(self, e: core.JaxprEqn) -> bool:
        """Whether an equation's one result is worth keeping: large, costlier than a copy, and read more than once."""
        v = e.outvars[0]
        once = len(e.outvars) > 1 or self.readers[v] < 2
        return not once and math.prod(v.aval.shape) >= LARGE and e.primitive.name not in COPIES


def evaluate(traced: core.ClosedJaxpr, arguments, rewriter: Rewriter | None = None) -> list:
    """Runs a traced program equation by equation: with calls put in line, or as `rewriter` computes it."""
    jaxpr = traced.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*traced.consts, *arguments), strict=True))
    for e in jaxpr.eqns:
        inputs = [values[v] if isinstance(v, core.Var) else v.val for v in e.invars]
        if rewriter:
            results = rewriter.results(e, inputs)
        elif e.primitive.name in ("jit", "pjit"):
            results = evaluate(e.params["jaxpr"], inputs)
        else:
            results = bind(e, inputs)
        values.update(zip(e.outvars, results, strict=True))
    return [values[v] if isinstance(v, core.Var) else v.val for v in jaxpr.outvars]


def bind(e: core.JaxprEqn, inputs: list, **changed) -> list:
    """The results of one equation, with some of its parameters changed."""
    parameters = e.primitive.get_bind_params({**e.params, **changed})
    if isinstance(parameters, tuple):  # JAX before 0.10 and some primitives: functions apart
        functions, parameters = parameters
        inputs = [*functions, *inputs]
    with e.ctx.manager:
        results = e.primitive.bind(*inputs, **parameters)
    return list(results) if e.primitive.multiple_results else [results]
