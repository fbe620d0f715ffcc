"""Where every array lives: the axis glossary, the mesh, THE table from logical to mesh axes, the order of time.

Layers name the axes of their parameters and activations; nothing else in the project knows a mesh axis.
With no mesh set (a notebook, a parity test) every function here is the identity.

Axes, as letters in shapes and einsum strings, and by name in the table:

    B batch          rows of the global batch           S source     key positions (never sharded by name)
    T time           query positions                    F feed_forward  hidden features of the feed-forward
    D width          features of the residual stream    V vocab      token ids
    N heads          query heads                        L layers     layers of a stack
    K kv_heads       key-value heads                    H head_width features of one head
    G                query heads per key-value head     E experts        of a mixture-of-experts feed-forward

D is `width` in matrices, which are split over it at rest, and `features` in vectors (norms, biases), which lie whole on
every device: kilobytes, whose gathers would stand in line with those of the matrices.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, PartitionSpec

MESH_AXES = ("replica", "stage", "data", "context", "expert", "tensor")  # slowest links first

# Logical axis -> the mesh axes that split it. `storage`: parameters and optimizer state at rest. `compute`: the
# same parameters while a layer uses them, and activations. Width is split at rest only: it is gathered, layer by
# layer, before use (ZeRO-3 / fsdp), over every axis whose devices would otherwise hold the same copy. What is no
# layer's (embedding, logits) is split over the stages too: they would all compute the same.
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "storage": {
        "layers": ("stage",),
        "width": ("data", "context", "expert"),
        "expert_width": ("data", "context"),  # of matrices that have an axis E
        "experts": ("expert",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "feed_forward": ("tensor",),
        "vocab": ("tensor", "stage"),
    },
    "compute": {
        "batch": ("replica", "data", "expert"),
        "time": ("context",),
        "experts": ("expert",),
        "expert_width": ("data", "context"),  # as at rest: the experts gather it themselves (model/moe.py)
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "feed_forward": ("tensor",),
        "vocab": ("tensor", "stage"),
    },
}


class ShardingError(ValueError):
    """A size that does not divide over its mesh axes, or a mesh that does not fit the devices: one line."""


def make_mesh(sizes: dict[str, int], devices: list | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices; `sizes` gives devices per mesh axis, and one of them may be 0: the rest.

    Raises ShardingError where the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    explicit = (AxisType.Explicit,) * len(MESH_AXES)
    return jax.sharding.Mesh(arrange_devices(shape, devices), MESH_AXES, axis_types=explicit)


def mesh_shape(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Devices along every mesh axis, of `count`. Raises ShardingError."""
    shape = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    free = [axis for axis, size in shape.items() if size == 0]
    fixed = math.prod(size for size in shape.values() if size)
    said = " x ".join(f"{axis}={size}" for axis, size in shape.items() if size not in (0, 1)) or "1"
    if min(shape.values()) < 0:
        raise ShardingError(f"mesh: {said}: sizes are at least 1, or 0 for the rest")
    if len(free) > 1:
        raise ShardingError(f"mesh: only one axis may be 0 (the rest), not {' and '.join(free)}")
    if count % fixed or (not free and fixed != count):
        fits = [d for d in range(1, count + 1) if count % d == 0] if free else [count]
        rest = "" if free else ", or set mesh.data=0 for the rest"
        raise ShardingError(
            f"mesh: {said} needs {fixed} devices and there are {count}; "
            f"sizes that multiply to {' or '.join(map(str, fits))} fit{rest}"
        )
    if free:
        shape[free[0]] = count // fixed
    return shape


def arrange_devices(shape: dict[str, int], devices: list) -> np.ndarray:
    """Devices in the mesh's shape, neighbours on the fastest links; each replica within one slice where there are
    several: only gradients, already reduced inside the slice, cross the network between them.

    Raises ShardingError where replicas do not divide over the slices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(tuple(shape.values()), devices, allow_split_physical_axes=True)
    if shape["replica"] % slices:
        raise ShardingError(f"mesh: replica={shape['replica']} does not divide over {slices} slices; try {slices}")
    inside = {**shape, "replica": shape["replica"] // slices}
    between = {axis: slices if axis == "replica" else 1 for axis in shape}
    inside, between = tuple(inside.values()), tuple(between.values())
    return mesh_utils.create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], table: str) -> PartitionSpec | None:
    """How an array with these logical axes is split on the current mesh; None where no mesh is set.

    Raises ShardingError if a size does not divide, or two axes of one array claim the same mesh axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        claimed = tuple(m for m in TABLE[table].get(axis or "", ()) if sizes.get(m, 1) > 1)
        taken = {m for part in parts if part for m in part} & set(claimed)
        if taken:
            raise ShardingError(f"{axes}: mesh axis {taken.pop()} is claimed twice; one array, one use of a mesh axis")
        over = math.prod(sizes[m] for m in claimed)
        if size % over:
            raise ShardingError(
                f"{axis} of size {size} does not divide over mesh {' x '.join(f'{m}={sizes[m]}' for m in claimed)}; "
                f"{nearest_sizes(size, over)}, or {' x '.join(claimed)} of {largest_divisor(size, over)}"
            )
        parts.append(claimed or None)
    return PartitionSpec(*parts)


def nearest_sizes(size: int, over: int) -> str:
    """The sizes next to this one that divide."""
    low = size - size % over
    return f"the nearest that work are {low} and {low + over}" if low else f"the nearest that works is {over}"


def largest_divisor(size: int, over: int) -> int:
    """The largest divisor of `size` up to `over`."""
    return max(d for d in range(1, min(size, over) + 1) if size % d == 0)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """An activation, split as its logical axes say."""
    wanted = partition_spec(axes, x.shape, "compute")
    return x if wanted is None else jax.sharding.reshard(x, wanted)


def shard_count(axis: str, table: str = "compute") -> int:
    """Into how many parts the current mesh splits a logical axis; 1 with no mesh."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(m, 1) for m in TABLE[table].get(axis, ()))


def gather(parameter: jax.Array, *axes: str | None) -> jax.Array:
    """A parameter from its place at rest to where a layer computes with it.

    Its gradient comes back the other way: summed and scattered over the axes that were gathered, and then, in pieces,
    over the replicas. `reduced` says so: the gradient of the one is not summed before it is scattered.
    """
    at_rest, wanted = partition_spec(axes, parameter.shape, "storage"), partition_spec(axes, parameter.shape, "compute")
    if wanted is None:
        return parameter
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.are_all_axes_explicit:  # inside a pipeline's stage JAX knows no `reduced` yet (0.12)
        return jax.sharding.reshard(parameter, wanted)
    sizes = mesh.shape
    summed = {m for axis in ("batch", "time") for m in TABLE["compute"][axis] if sizes.get(m, 1) > 1}
    for split in (at_rest, wanted):
        used = set(flatten_axes(*split))
        parameter = jax.sharding.reshard(parameter, PartitionSpec(*split, reduced=summed - used))
    return parameter


def check_chunks(name: str, size: int, parts: int) -> None:
    """Raises ShardingError where no device can cut its piece of a logical axis into so many."""
    over = shard_count(name) * parts
    if size % over:
        raise ShardingError(
            f"{name} of size {size} does not divide into {parts} parts on each of {shard_count(name)} shards; "
            f"{nearest_sizes(size, over)}, or {largest_divisor(size // shard_count(name), parts)} parts"
        )


def split_within_shards(x: jax.Array, axis: int, parts: int, name: str) -> jax.Array:
    """[…, A, …] -> [parts, …, A / parts, …]: every device cuts its own piece of the logical axis `name`, so nothing
    moves. Raises ShardingError."""
    check_chunks(name, x.shape[axis], parts)
    count = shard_count(name)
    size, lies = x.shape[axis] // (count * parts), partition_of(x)
    shape = (*x.shape[:axis], count, parts, size, *x.shape[axis + 1 :])
    apart = reshape(x, shape, (*lies[: axis + 1], None, None, *lies[axis + 1 :]))
    shape = (parts, *x.shape[:axis], count * size, *x.shape[axis + 1 :])
    return reshape(jnp.moveaxis(apart, axis + 1, 0), shape, (None, *lies))


def join_within_shards(x: jax.Array, axis: int, name: str) -> jax.Array:
    """`split` undone: [parts, …, A / parts, …] -> […, A, …], `axis` as it was."""
    count, parts, lies = shard_count(name), x.shape[0], partition_of(x)[1:]
    size = x.shape[axis + 1] // count
    shape = (parts, *x.shape[1 : axis + 1], count, size, *x.shape[axis + 2 :])
    apart = reshape(x, shape, (None, *lies[: axis + 1], None, *lies[axis + 1 :]))
    shape = (*x.shape[1 : axis + 1], count * parts * size, *x.shape[axis + 2 :])
    return reshape(jnp.moveaxis(apart, 0, axis + 1), shape, lies)


def partition_of(x: jax.Array) -> tuple:
    """The mesh axes that split each axis of an array; None where none does."""
    if jax.sharding.get_abstract_mesh().empty:
        return (None,) * x.ndim
    known = jax.typeof(x).sharding.spec.partitions  # a gathered parameter's spec is more than its parts
    return (*known, *(None,) * (x.ndim - len(known)))


def flatten_axes(*parts: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes in parts of what `lying` or a PartitionSpec says, in order."""
    return tuple(axis for part in parts for axis in ((part,) if isinstance(part, str) else part or ()))


def available_mesh_axes() -> set[str]:
    """The mesh axes that a shard_map here may take: all but those of one around it (a pipeline's stages)."""
    return set(jax.sharding.get_abstract_mesh().explicit_axes)


def reshape(x: jax.Array, shape: tuple[int, ...], lies: tuple) -> jax.Array:
    """A reshape whose result is split like this."""
    if jax.sharding.get_abstract_mesh().empty:
        return x.reshape(shape)
    return jnp.reshape(x, shape, out_sharding=PartitionSpec(*lies))


def time_order(length: int) -> np.ndarray:
    """int [T]: which token of a row lies where. With the time axis split over c devices each holds two pieces of 2c,
    the i-th and the i-th from the end: under a causal mask all have the same work (Brandon et al. 2023 name the
    problem; the pairing is that of Llama 3's context parallelism, 3.3.2). Raises ShardingError."""
    count = shard_count("time")
    if count == 1:
        return np.arange(length)
    if length % (2 * count):
        raise ShardingError(
            f"time of size {length} does not divide over 2 x mesh context={count} (two pieces a device); "
            f"{nearest_sizes(length, 2 * count)}"
        )
    return np.arange(length).reshape(2 * count, -1)[zigzag(count)].reshape(-1)


def zigzag(count: int) -> np.ndarray:
    """int [2c]: the pieces of a row as they lie on c devices: 0, 2c-1, 1, 2c-2, …"""
    return np.stack([np.arange(count), 2 * count - 1 - np.arange(count)], axis=1).reshape(-1)


def shift_right(x_BTD: jax.Array, first_B1D: jax.Array | None) -> jax.Array:
    """Every token's predecessor in its row; before the first stands `first_B1D`, or zeros. In and out as time lies."""
    count, (rows, length, width) = shard_count("time"), x_BTD.shape
    if first_B1D is None:
        first_B1D = shard(jnp.zeros((rows, 1, width), x_BTD.dtype), "batch", None, None)
    first_B1D = first_B1D.astype(x_BTD.dtype)
    if count == 1:
        return jnp.concatenate([first_B1D, x_BTD[:, :-1]], axis=1)
    lies, order = partition_of(x_BTD), zigzag(count)
    x_BPTD = reshape(x_BTD, (rows, 2 * count, length // (2 * count), width), (*lies[:2], None, lies[2]))
    last_BPD = shard(x_BPTD[:, :, -1], "batch", None, None)  # whole: every piece's last token goes to the next piece
    last_BPD = jnp.concatenate([first_B1D, last_BPD[:, np.argsort(order)]], axis=1)[:, order]
    first_BPTD = shard(last_BPD, "batch", "time", None)[:, :, None]
    return reshape(jnp.concatenate([first_BPTD, x_BPTD[:, :, :-1]], axis=2), x_BTD.shape, lies)


def decoding_mesh(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The same devices as a mesh for writing, token by token, where time, experts and stages are not split: their
    devices take rows as those of `data` and `replica` do, and hold what they held of everything but layers."""
    at, sizes = mesh.shape, dict.fromkeys(MESH_AXES, 1)
    sizes |= {"replica": at["replica"] * at["stage"], "data": at["data"] * at["context"] * at["expert"]}
    sizes["tensor"] = at["tensor"]
    return jax.sharding.Mesh(mesh.devices.reshape(tuple(sizes.values())), MESH_AXES, axis_types=mesh.axis_types)


def dealt(x: jax.Array, over_devices: bool = False) -> jax.Array:
    """x whole on every device; or its first axis dealt out over as many devices as divide it.

    For work on whole matrices that no layer's axes describe (an optimizer's orthogonalisation).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    axes: list[str] = []
    for axis, size in zip(mesh.axis_names, mesh.axis_sizes, strict=True):
        if over_devices and size > 1 and x.shape[0] % (math.prod(mesh.shape[a] for a in axes) * size) == 0:
            axes.append(axis)
    return jax.sharding.reshard(x, PartitionSpec(tuple(axes) or None))
