"""The arrays of a module or another tree by dotted path, as `stacks.0.pattern.0.mixer.query`: the names under which
checkpoints store them, and by which Hugging Face's tables and adapters find them."""

from __future__ import annotations

import jax
from flax import nnx


def flatten_by_path(tree) -> dict[str, jax.Array]:
    """A tree's arrays by dotted path: a form to store that does not depend on the tree's classes."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {dotted(path).removesuffix(".value"): leaf for path, leaf in leaves}


def parameters_by_path(module: nnx.Module) -> dict[str, nnx.Param]:
    """A module's parameters, with what each says of itself, by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda x: isinstance(x, nnx.Param))[0]
    return {dotted(path): leaf for path, leaf in leaves}


def dotted(path) -> str:
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)
