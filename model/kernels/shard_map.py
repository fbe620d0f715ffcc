"""What kernels share: jax.shard_map by logical axes, for those that know no mesh; marks of what varies inside one;
common refusals."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from model.sharding import available_mesh_axes, partition_spec, shard, shard_count

# Logical axes of what kernels take and return.
QUERY = ("batch", "heads", "time", None)
KEY = ("batch", "kv_heads", "time", None)
LOGSUMEXP = ("batch", "heads", "time")
SEGMENTS = ("batch", "time")

LogicalAxes = tuple[str | None, ...]


def shard_map_logical(
    function: Callable, in_axes: tuple[LogicalAxes, ...], out_axes: LogicalAxes | tuple[LogicalAxes, ...], *arrays
):
    """Calls function(*arrays) on each device's shards: jax.shard_map with logical axes instead of specs.

    An array may be None. All mesh axes are mapped but those that a shard_map around this one has (a pipeline's stages).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(*arrays)
    present = [(axes, x) for axes, x in zip(in_axes, arrays, strict=True) if x is not None]
    sizes = {axis: size for axes, x in present for axis, size in zip(axes, x.shape, strict=True)}

    def spec(axes: LogicalAxes) -> PartitionSpec:
        return partition_spec(axes, tuple(sizes[axis] for axis in axes), "compute")

    sharded = [None if x is None else shard(x, *axes) for axes, x in zip(in_axes, arrays, strict=True)]
    in_specs = tuple(None if x is None else spec(axes) for axes, x in zip(in_axes, arrays, strict=True))
    out_specs = tuple(map(spec, out_axes)) if isinstance(out_axes[0], tuple) else spec(out_axes)
    options = {"in_specs": in_specs, "out_specs": out_specs, "axis_names": available_mesh_axes(), "check_vma": False}
    return jax.shard_map(function, **options)(*sharded)


def mark_varying(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each marked as varying along all manual mesh axes that any of them varies along. Their gradients are
    summed over the axes added here, as JAX does for its own products."""
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return list(map(mark, arrays))


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
