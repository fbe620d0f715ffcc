"""LoRA (Hu et al. 2021): low-rank adapters beside the frozen weights of a Transformer, chosen by path.

Adapters are a tree of their own, {path of a weight: Adapter}: train/state.py trains them, train/checkpoint.py stores
them. `combine` puts them beside the weights, `merge` adds them to the weights.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import string

import jax
import jax.numpy as jnp
from flax import nnx

from model import config as c
from model.layers import AdaptedWeight, Adapter, ParameterFactory, constant, is_projection, normal, stacked_axes
from model.paths import dotted, parameters_by_path
from model.sharding import partition_spec
from model.transformer import Transformer, abstract_model

Adapters = dict[str, Adapter]  # by the path of the weight that each stands beside

OUTPUT, TABLE = "output", "embedding.table"  # the two weights that are one where a model is tied


class AdapterError(ValueError):
    """Adapters do not fit a model. The message is one line. Exit status 2."""


def target_weights(config: c.Model, lora: c.LoRA) -> dict[str, nnx.Param]:
    """The weights that get an adapter, by path: their shapes and what they say of themselves. Raises AdapterError for a
    pattern that matches none, or one that no adapter is built for."""
    parameters = parameters_by_path(abstract_model(dataclasses.replace(config, tied=False)))
    matched = {path for pattern in lora.paths for path in match(pattern, parameters)}
    return {path: parameter for path, parameter in parameters.items() if path in matched}


def match(pattern: str, parameters: dict[str, nnx.Param]) -> list[str]:
    """The paths of the matrices that a pattern matches, one at least. Raises AdapterError."""
    matched = fnmatch.filter(parameters, pattern)
    matrices = [path for path in matched if parameters[path].input_axes]
    if not matrices:
        every_matrix = [path for path, parameter in parameters.items() if parameter.input_axes]
        (nearest,) = difflib.get_close_matches(pattern, every_matrix, 1, 0.0)
        reason = f"only vectors, as {matched[0]}, which have no adapters" if matched else "no matrix"
        raise AdapterError(f"lora.paths: {pattern!r} matches {reason}; the nearest matrix is {nearest!r}")
    for path in matrices:
        if kind := kind_without_adapter(path, parameters[path]):
            raise AdapterError(f"lora.paths: {pattern!r} matches {path!r}; adapters of {kind} are not built")
    return matrices


def kind_without_adapter(path: str, parameter: nnx.Param) -> str | None:
    """What a matrix is that no adapter is built for: those that not only `project` multiplies with. Else None."""
    if "experts" in parameter.axes:
        return "experts"
    if path.endswith(".recurrent"):
        return "recurrent weights"
    return None if is_projection(parameter) else "routers"


def adapted_config(config: c.Model, lora: c.LoRA | None) -> c.Model:
    """The config of a model beside whose weights adapters stand, and of the merged model: untied where an adapter
    changes one use of the tied matrix and not the other. Raises AdapterError."""
    if lora is None or not {OUTPUT, TABLE} & target_weights(config, lora).keys():
        return config
    return dataclasses.replace(config, tied=False)


def untie(model: Transformer) -> Transformer:
    """The same model with an output of its own, the embedding table transposed; the model itself where it has one."""
    if not model.config.tied:
        return model
    untied = jax.tree.map(lambda x: x, model)
    untied.config = dataclasses.replace(model.config, tied=False)
    untied.output = nnx.data(model.output_weight())
    return untied


def create_adapters(config: c.Model, lora: c.LoRA, key: jax.Array) -> Adapters:
    """Adapters that change nothing yet: `down` is random, of deviation 1 / sqrt(fan in), and `up` is 0 (Hu et al. 2021,
    4.1). Call it under jit, so that they are created sharded as the weights are. Raises AdapterError."""
    declare, adapters = ParameterFactory(key, c.Init()), {}
    for path, weight in target_weights(config, lora).items():
        axes, shape, first = weight.axes, weight.shape, stacked_axes(weight.axes)
        last = first + weight.input_axes  # behind the axes of inputs
        down = ((*axes[:last], "rank"), (*shape[:last], lora.rank))
        # A lookup reads one row of a table: its fan in is 1.
        down = declare(*down, normal(1.0), 1) if path.endswith("table") else declare.weight(*down, weight.input_axes)
        up_axes, up_shape = (*axes[:first], "rank", *axes[last:]), (*shape[:first], lora.rank, *shape[last:])
        up = declare(up_axes, up_shape, constant(0.0), 1)
        adapters[path] = Adapter(down, up, lora.alpha / lora.rank)
    return adapters


def combine(base: Transformer, adapters: Adapters) -> Transformer:
    """The model that multiplies with the base's weights, and with the adapters beside them. No array is copied."""

    def with_adapter(path, weight: nnx.Param) -> nnx.Param | AdaptedWeight:
        adapter = adapters.get(dotted(path))
        return weight if adapter is None else AdaptedWeight(weight, adapter)

    return jax.tree_util.tree_map_with_path(with_adapter, base, is_leaf=lambda x: isinstance(x, nnx.Param))


def merge(base: Transformer, adapters: Adapters) -> Transformer:
    """The model of plain weights, W + scale * down up, that computes what `combine` does. Call it under jit."""

    def merged(path, weight: nnx.Param) -> nnx.Param:
        adapter = adapters.get(dotted(path))
        return weight if adapter is None else weight.replace(weight[...] + adapter.scale * product(adapter, weight))

    return jax.tree_util.tree_map_with_path(merged, base, is_leaf=lambda x: isinstance(x, nnx.Param))


def product(adapter: Adapter, weight: nnx.Param) -> jax.Array:
    """down up, in the shape and the storage sharding of the weight."""
    letters, first = string.ascii_lowercase[: len(weight.axes)], stacked_axes(weight.axes)
    last = first + weight.input_axes
    formula = f"{letters[:last]}R,{letters[:first]}R{letters[last:]}->{letters}"
    sharding = partition_spec(weight.axes, weight.shape, "storage")
    down, up = adapter.down[...], adapter.up[...]
    return jnp.einsum(formula, down, up, precision="highest", out_sharding=sharding)
