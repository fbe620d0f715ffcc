"""Optimization barriers in a traced program, so that XLA's CPU compiler computes a shared value once.

The compiler fuses a value into each of its readers and computes it again in all of them: in a training step the
gradient of the residual stream again for every weight. A barrier behind the value keeps it in memory. The barriers are
put into the traced program here, so that the layers need none.
"""

from __future__ import annotations

import collections
import functools
import math

import jax
from jax.extend import core

LARGE = 20_000  # elements: smaller values are cheaper to compute again than to keep
COPIES = ("reshape", "transpose", "broadcast_in_dim", "convert_element_type", "squeeze", "slice", "neg", "copy", "iota")
COPIES += ("reshard", "stop_gradient", "optimization_barrier")


def with_barriers(function):
    """The same function of pytrees, with a barrier behind every large value that is read more than once."""

    @functools.wraps(function)
    def wrapped(*arguments):
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        program = insert_barriers(traced)
        results = evaluate(program, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return wrapped


def insert_barriers(traced: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The program with inner calls put in line, then with barriers behind shared values."""
    shapes = [v.aval for v in traced.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *inputs: evaluate(traced, inputs))(*shapes)
    return jax.make_jaxpr(lambda *inputs: evaluate(flat, inputs, barriers=True))(*shapes)


def evaluate(traced: core.ClosedJaxpr, inputs, barriers: bool = False) -> list:
    """Runs a traced program equation by equation, with `barriers` behind shared values, in the bodies of loops too."""
    jaxpr = traced.jaxpr
    readers = collections.Counter(v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var))
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*traced.consts, *inputs), strict=True))

    def value(v):
        return values[v] if isinstance(v, core.Var) else v.val

    for e in jaxpr.eqns:
        results = evaluate_equation(e, [value(v) for v in e.invars], barriers)
        if barriers:
            results = [jax.lax.optimization_barrier(x) if needs_barrier(e, readers) else x for x in results]
        values.update(zip(e.outvars, results, strict=True))
    return [value(v) for v in jaxpr.outvars]


def evaluate_equation(e: core.JaxprEqn, inputs: list, barriers: bool) -> list:
    """The results of one equation. The body of a call is put in line; that of a loop is rewritten, for barriers."""
    match e.primitive.name:
        case "jit" | "pjit":
            return evaluate(e.params["jaxpr"], inputs)
        case "scan" if barriers:
            parameters = {**e.params, "jaxpr": insert_barriers(e.params["jaxpr"])}
        case _:
            parameters = e.primitive.get_bind_params(e.params)
            if isinstance(parameters, tuple):  # JAX before 0.10 and some primitives: functions apart
                functions, parameters = parameters
                inputs = [*functions, *inputs]
    with e.ctx.manager:
        results = e.primitive.bind(*inputs, **parameters)
    return list(results) if e.primitive.multiple_results else [results]


def needs_barrier(e: core.JaxprEqn, readers: collections.Counter) -> bool:
    """Whether an equation's one result is worth keeping: large, costlier than a copy, and read more than once."""
    v = e.outvars[0]
    once = len(e.outvars) > 1 or readers[v] < 2
    return not once and math.prod(v.aval.shape) >= LARGE and e.primitive.name not in COPIES
