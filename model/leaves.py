"""Programs of a model's leaves: modules flatten more slowly than a list of arrays. Decoders and train/continuations.py
call it."""

from __future__ import annotations

from collections.abc import Callable

import jax


def jit_of_leaves(program: Callable, structure, **options) -> Callable:
    """Jitted `program(model, …)`, which takes the leaves of a model of this tree structure in its place. `options`: of
    jax.jit."""

    def of_leaves(leaves, *arguments, **static):
        return program(structure.unflatten(leaves), *arguments, **static)

    return jax.jit(of_leaves, **options)
