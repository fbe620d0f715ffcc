"""What kernels share: one that knows no mesh is run on each device's part of the rows; what most of them refuse."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from model.sharding import available_mesh_axes, partition_spec, shard, shard_count

QUERY = ("batch", "heads", "time", None)
KEY = ("batch", "kv_heads", "time", None)
SUMS = ("batch", "heads", "time")  # one number a query and head
SEGMENTS = ("batch", "time")

Axes = tuple[str | None, ...]


def shard_map_logical(function: Callable, axes: tuple[Axes, ...], made: Axes | tuple[Axes, ...], *given):
    """function(*given) on every device's part of the arrays; `axes` and `made`: the logical axes of what goes in and
    comes out. An array may be None. Over all mesh axes but those that a caller has taken in hand itself (a pipeline's
    stages)."""
    if jax.sharding.get_abstract_mesh().empty:
        return function(*given)
    there = [(names, x) for names, x in zip(axes, given, strict=True) if x is not None]
    lengths = {name: size for names, x in there for name, size in zip(names, x.shape, strict=True)}

    def split(names: Axes) -> PartitionSpec:
        return partition_spec(names, tuple(lengths[name] for name in names), "compute")

    placed = [None if x is None else shard(x, *names) for names, x in zip(axes, given, strict=True)]
    taken = tuple(None if x is None else split(names) for names, x in zip(axes, given, strict=True))
    out = tuple(map(split, made)) if isinstance(made[0], tuple) else split(made)
    local = jax.shard_map(function, in_specs=taken, out_specs=out, axis_names=available_mesh_axes(), check_vma=False)
    return local(*placed)


def dropout_refusal(weight_dropout: tuple[float, jax.Array | None]) -> str | None:
    """Why a kernel that keeps no weights cannot drop any."""
    if weight_dropout[0] and weight_dropout[1] is not None:
        return "drops no attention weights; set attention's dropout to 0, or execution.kernel=reference"
    return None


def split_refusal() -> str | None:
    """Why a kernel of whole rows cannot run where the mesh splits time."""
    if shard_count("time") > 1:
        return f"reads whole rows and mesh context={shard_count('time')} splits them; set execution.kernel=ring"
    return None
