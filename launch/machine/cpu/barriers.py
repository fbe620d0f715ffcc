"""Barriers in a traced program, so that XLA's CPU compiler computes shared values once.

It fuses a value into each of its readers and computes it again in all of them: in a training step the residual stream's
gradient again for every weight. An optimization barrier behind a value keeps it in memory. They are put into the
traced program here, so that the layers hold none.
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
    def wrapped(*given):
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*given)
        program = insert_barriers(traced)
        found = evaluate(program, jax.tree.leaves(given))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return wrapped


def insert_barriers(traced: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Inner calls put in line, then barriers where they belong."""
    shapes = [v.aval for v in traced.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *given: evaluate(traced, given))(*shapes)
    return jax.make_jaxpr(lambda *given: evaluate(flat, given, barriers=True))(*shapes)


def evaluate(traced: core.ClosedJaxpr, given, barriers: bool = False) -> list:
    """Runs a traced program equation by equation; with `barriers` behind shared values, in loops' bodies too."""
    jaxpr = traced.jaxpr
    readers = collections.Counter(v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var))
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*traced.consts, *given), strict=True))

    def value(v):
        return values[v] if isinstance(v, core.Var) else v.val

    for e in jaxpr.eqns:
        found = evaluate_equation(e, [value(v) for v in e.invars], barriers)
        if barriers:
            found = [jax.lax.optimization_barrier(x) if needs_barrier(e, readers) else x for x in found]
        values.update(zip(e.outvars, found, strict=True))
    return [value(v) for v in jaxpr.outvars]


def evaluate_equation(e: core.JaxprEqn, given: list, barriers: bool) -> list:
    """One equation's results: the bodies of calls in line, those of loops rewritten where barriers are put."""
    match e.primitive.name:
        case "jit" | "pjit":
            return evaluate(e.params["jaxpr"], given)
        case "scan" if barriers:
            parameters = {**e.params, "jaxpr": insert_barriers(e.params["jaxpr"])}
        case _:
            parameters = e.primitive.get_bind_params(e.params)
            if isinstance(parameters, tuple):  # JAX before 0.10 and some primitives: functions apart
                functions, parameters = parameters
                given = [*functions, *given]
    with e.ctx.manager:
        found = e.primitive.bind(*given, **parameters)
    return list(found) if e.primitive.multiple_results else [found]


def needs_barrier(e: core.JaxprEqn, readers: collections.Counter) -> bool:
    """Whether an equation's one result is worth keeping: large, costlier than a copy, and read more than once."""
    v = e.outvars[0]
    once = len(e.outvars) > 1 or readers[v] < 2
    return not once and math.prod(v.aval.shape) >= LARGE and e.primitive.name not in COPIES
