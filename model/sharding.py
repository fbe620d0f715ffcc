"""Sharding: the glossary of axes, the mesh, the rules from logical to mesh axes, the order of time steps on devices.

Layers name the logical axes of their parameters and activations; nothing else in the project knows a mesh axis.
With no mesh set (a notebook, a parity test) every function here is the identity.

Axes, as letters in shapes and einsum strings, and by name in the table:

    B batch          rows of the global batch           S source     key positions (never sharded by name)
    T time           query positions                    F feed_forward  hidden features of the feed-forward
    D width          features of the residual stream    V vocab      token ids
    N heads          query heads                        L layers     layers of a stack
    K kv_heads       key-value heads                    H head_width features of one head
    G                query heads per key-value head     E experts        of a mixture-of-experts feed-forward

D is named `width` in matrices, which are split along it at rest, and `features` in vectors (norms, biases), which
every device holds whole: they are kilobytes, and their gathers would delay those of the matrices.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, PartitionSpec

# `stage` first: a shard_map inside a pipeline's stage adds its axes behind the one that is manual already, and XLA's
# compiler (jax 0.12) takes manual axes in the order of the mesh only. Devices are laid out in another order.
MESH_AXES = ("stage", "replica", "data", "context", "expert", "tensor")
SLOWEST_LINKS_FIRST = ("replica", "stage", "data", "context", "expert", "tensor")

# Logical axis -> the mesh axes that split it. `storage`: parameters and optimizer state at rest. `compute`: the
# same parameters while a layer uses them, and activations. Width is split at rest only, over every mesh axis whose
# devices would otherwise hold the same copy; it is gathered, layer by layer, before use (ZeRO-3 / fsdp). Embedding
# and logits belong to no layer: they are split over the stages too, which would otherwise all compute the same.
AXIS_RULES: dict[str, dict[str, tuple[str, ...]]] = {
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
        "expert_width": ("data", "context"),  # as at rest: the experts gather it themselves (model/experts.py)
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "feed_forward": ("tensor",),
        "vocab": ("tensor", "stage"),
    },
}


class ShardingError(ValueError):
    """A size does not divide over its mesh axes, or a mesh does not fit the devices; the message is one line."""


def make_mesh(sizes: dict[str, int], devices: list | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices. `sizes` maps mesh axes to numbers of devices; one of them may be 0, for all the rest.

    Raises ShardingError if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    explicit = (AxisType.Explicit,) * len(MESH_AXES)
    return jax.sharding.Mesh(arrange_devices(shape, devices), MESH_AXES, axis_types=explicit)


def mesh_shape(sizes: dict[str, int], count: int) -> dict[str, int]:
    """The number of devices along every mesh axis, `count` in all. Raises ShardingError."""
    shape = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    free = [axis for axis, size in shape.items() if size == 0]
    fixed = math.prod(size for size in shape.values() if size)
    text = " x ".join(f"{axis}={size}" for axis, size in shape.items() if size not in (0, 1)) or "1"
    if min(shape.values()) < 0:
        raise ShardingError(f"mesh: {text}: sizes are at least 1, or 0 for the rest")
    if len(free) > 1:
        raise ShardingError(f"mesh: only one axis may be 0 (the rest), not {' and '.join(free)}")
    if count % fixed or (not free and fixed != count):
        divisors = [d for d in range(1, count + 1) if count % d == 0] if free else [count]
        hint = "" if free else ", or set mesh.data=0 for the rest"
        raise ShardingError(
            f"mesh: {text} needs {fixed} devices and there are {count}; "
            f"sizes that multiply to {' or '.join(map(str, divisors))} fit{hint}"
        )
    if free:
        shape[free[0]] = count // fixed
    return shape


def arrange_devices(shape: dict[str, int], devices: list) -> np.ndarray:
    """The devices in the shape of the mesh, neighbours on the fastest links: replicas are farthest from each other.

    Where there are several slices, each replica stays within one: only gradients, already reduced inside the slice,
    cross the network between slices. Raises ShardingError if the replicas do not divide over the slices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if shape["replica"] % slices:
        raise ShardingError(f"mesh: replica={shape['replica']} does not divide over {slices} slices; try {slices}")
    within_slice = {**shape, "replica": shape["replica"] // slices}
    across_slices = {**dict.fromkeys(shape, 1), "replica": slices}
    sizes = [tuple(part[axis] for axis in SLOWEST_LINKS_FIRST) for part in (within_slice, across_slices)]
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(sizes[0], devices, allow_split_physical_axes=True)
    else:
        arranged = mesh_utils.create_hybrid_device_mesh(*sizes, devices, allow_split_physical_axes=True)
    return arranged.transpose([SLOWEST_LINKS_FIRST.index(axis) for axis in MESH_AXES])


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], table: str) -> PartitionSpec | None:
    """The PartitionSpec of an array with these logical axes on the current mesh; None if no mesh is set.

    Raises ShardingError if a size does not divide, or if two axes of one array claim the same mesh axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        mesh_axes = tuple(m for m in AXIS_RULES[table].get(axis or "", ()) if sizes.get(m, 1) > 1)
        clash = {m for part in parts if part for m in part} & set(mesh_axes)
        if clash:
            raise ShardingError(f"{axes}: mesh axis {clash.pop()} is claimed twice; one array, one use of a mesh axis")
        count = math.prod(sizes[m] for m in mesh_axes)
        if size % count:
            raise ShardingError(
                f"{axis} of size {size} does not divide over mesh {' x '.join(f'{m}={sizes[m]}' for m in mesh_axes)}; "
                f"{nearest_sizes(size, count)}, or {' x '.join(mesh_axes)} of {largest_divisor(size, count)}"
            )
        parts.append(mesh_axes or None)
    return PartitionSpec(*parts)


def nearest_sizes(size: int, divisor: int) -> str:
    """Text for an error message: the multiples of `divisor` next to `size`."""
    low = size - size % divisor
    return f"the nearest that work are {low} and {low + divisor}" if low else f"the nearest that works is {divisor}"


def largest_divisor(size: int, limit: int) -> int:
    """The largest divisor of `size` up to `limit`."""
    return max(d for d in range(1, min(size, limit) + 1) if size % d == 0)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """An activation in the compute sharding of its logical axes."""
    spec = partition_spec(axes, x.shape, "compute")
    return x if spec is None else jax.sharding.reshard(x, spec)


def shard_count(axis: str, table: str = "compute") -> int:
    """The number of shards into which the current mesh splits a logical axis; 1 with no mesh."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(m, 1) for m in AXIS_RULES[table].get(axis, ()))


def gather(parameter: jax.Array, *axes: str | None) -> jax.Array:
    """Reshards a parameter from its storage sharding to its compute sharding.

    The gradient goes the other way: it is reduce-scattered over the gathered axes, and its pieces are then summed over
    the replicas. `reduced` asks for this order: without it the whole gradient would be summed before it is scattered.
    """
    storage_spec = partition_spec(axes, parameter.shape, "storage")
    compute_spec = partition_spec(axes, parameter.shape, "compute")
    if compute_spec is None:
        return parameter
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.are_all_axes_explicit:  # inside a pipeline's stage JAX knows no `reduced` yet (0.12)
        return jax.sharding.reshard(parameter, compute_spec)
    sizes = mesh.shape
    gradient_axes = {m for axis in ("batch", "time") for m in AXIS_RULES["compute"][axis] if sizes.get(m, 1) > 1}
    for spec in (storage_spec, compute_spec):
        spec_axes = set(flatten_axes(*spec))
        parameter = jax.sharding.reshard(parameter, PartitionSpec(*spec, reduced=gradient_axes - spec_axes))
    return parameter


def without_gradient(parameter: jax.Array) -> jax.Array:
    """A parameter that `gather` gave, where no gradient will be asked for: it may be reshaped then."""
    if jax.sharding.get_abstract_mesh().empty:
        return parameter
    return jax.sharding.reshard(parameter, PartitionSpec(*partition_of(parameter)))


def check_chunks(name: str, size: int, parts: int) -> None:
    """Raises ShardingError if the devices cannot cut their shards of a logical axis into `parts` equal chunks."""
    count = shard_count(name) * parts
    if size % count:
        raise ShardingError(
            f"{name} of size {size} does not divide into {parts} parts on each of {shard_count(name)} shards; "
            f"{nearest_sizes(size, count)}, or {largest_divisor(size // shard_count(name), parts)} parts"
        )


def split_within_shards(x: jax.Array, axis: int, parts: int, name: str) -> jax.Array:
    """Cuts an axis into chunks and puts the chunks on a new first axis: […, A, …] -> [parts, …, A / parts, …].

    Every device cuts its own shard of the logical axis `name`, so no data moves. Raises ShardingError."""
    check_chunks(name, x.shape[axis], parts)
    shards = shard_count(name)
    size, partition = x.shape[axis] // (shards * parts), partition_of(x)
    shape = (*x.shape[:axis], shards, parts, size, *x.shape[axis + 1 :])
    chunks = reshape(x, shape, (*partition[: axis + 1], None, None, *partition[axis + 1 :]))
    shape = (parts, *x.shape[:axis], shards * size, *x.shape[axis + 1 :])
    return reshape(jnp.moveaxis(chunks, axis + 1, 0), shape, (None, *partition))


def join_within_shards(x: jax.Array, axis: int, name: str) -> jax.Array:
    """Undoes `split_within_shards` of the same `axis` and `name`: [parts, …, A / parts, …] -> […, A, …]."""
    shards, parts, partition = shard_count(name), x.shape[0], partition_of(x)[1:]
    size = x.shape[axis + 1] // shards
    shape = (parts, *x.shape[1 : axis + 1], shards, size, *x.shape[axis + 2 :])
    chunks = reshape(x, shape, (None, *partition[: axis + 1], None, *partition[axis + 1 :]))
    shape = (*x.shape[1 : axis + 1], shards * parts * size, *x.shape[axis + 2 :])
    return reshape(jnp.moveaxis(chunks, 0, axis + 1), shape, partition)


def partition_of(x: jax.Array) -> tuple:
    """For each axis of an array, the mesh axes that split it, or None."""
    if jax.sharding.get_abstract_mesh().empty:
        return (None,) * x.ndim
    partition = jax.typeof(x).sharding.spec.partitions  # not the spec itself: a gathered parameter's has `reduced` too
    return (*partition, *(None,) * (x.ndim - len(partition)))


def flatten_axes(*entries: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes in entries of a PartitionSpec or of `partition_of`, in order."""
    return tuple(axis for entry in entries for axis in ((entry,) if isinstance(entry, str) else entry or ()))


def available_mesh_axes() -> set[str]:
    """The mesh axes open to a shard_map called here: all but those of a shard_map around it (a pipeline's stages)."""
    return set(jax.sharding.get_abstract_mesh().explicit_axes)


def reshape(x: jax.Array, shape: tuple[int, ...], partition: tuple) -> jax.Array:
    """x reshaped, the axes of the result split over these mesh axes."""
    if jax.sharding.get_abstract_mesh().empty:
        return x.reshape(shape)
    return jnp.reshape(x, shape, out_sharding=PartitionSpec(*partition))


def time_order(length: int) -> np.ndarray:
    """The order in which a row's tokens are laid out along the time axis, as indices int [T].

    With the time axis split over c devices, a row is cut into 2c pieces and each device holds two, the i-th and the
    i-th from the end: under a causal mask all devices have the same work (Brandon et al. 2023 name the problem; the
    pairing is that of Llama 3's context parallelism, 3.3.2). Raises ShardingError."""
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
    """The order of a row's pieces on c devices, int [2c]: 0, 2c-1, 1, 2c-2, …"""
    return np.stack([np.arange(count), 2 * count - 1 - np.arange(count)], axis=1).reshape(-1)


def shift_right(x_BTD: jax.Array, first_B1D: jax.Array | None) -> jax.Array:
    """x shifted right by one token: each position gets its predecessor in the row, the first `first_B1D` or zeros.

    Input and output are in `time_order`."""
    count, (rows, length, width) = shard_count("time"), x_BTD.shape
    if first_B1D is None:
        first_B1D = shard(jnp.zeros((rows, 1, width), x_BTD.dtype), "batch", None, None)
    first_B1D = first_B1D.astype(x_BTD.dtype)
    if count == 1:
        return jnp.concatenate([first_B1D, x_BTD[:, :-1]], axis=1)
    partition, order = partition_of(x_BTD), zigzag(count)
    x_BPTD = reshape(x_BTD, (rows, 2 * count, length // (2 * count), width), (*partition[:2], None, partition[2]))
    last_BPD = shard(x_BPTD[:, :, -1], "batch", None, None)  # replicated: every piece's last token goes to the next
    last_BPD = jnp.concatenate([first_B1D, last_BPD[:, np.argsort(order)]], axis=1)[:, order]
    first_BPTD = shard(last_BPD, "batch", "time", None)[:, :, None]
    return reshape(jnp.concatenate([first_BPTD, x_BPTD[:, :, :-1]], axis=2), x_BTD.shape, partition)


def decoding_mesh(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """A mesh of the same devices for decoding, which splits neither time nor experts nor layers.

    Devices of `context` and `expert` join `data`, those of `stage` join `replica`: they take rows of the batch.
    Each device holds as large a share of every parameter as before, except of those that `stage` split."""
    shape, sizes = mesh.shape, dict.fromkeys(MESH_AXES, 1)
    sizes |= {"replica": shape["replica"] * shape["stage"], "data": shape["data"] * shape["context"] * shape["expert"]}
    sizes["tensor"] = shape["tensor"]
    slowest_links_first = mesh.devices.transpose([MESH_AXES.index(axis) for axis in SLOWEST_LINKS_FIRST])
    devices = slowest_links_first.reshape(tuple(sizes.values()))  # `stage` and its neighbour `replica` are one
    return jax.sharding.Mesh(devices, MESH_AXES, axis_types=mesh.axis_types)


def replicate(x: jax.Array) -> jax.Array:
    """x whole on every device."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.sharding.reshard(x, PartitionSpec(None))


def distribute(x: jax.Array) -> jax.Array:
    """x with its first axis split over as many devices as divide it.

    For work on whole matrices that no layer's axes describe (an optimizer's orthogonalisation).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    axes: list[str] = []
    for axis, size in zip(mesh.axis_names, mesh.axis_sizes, strict=True):
        if size > 1 and x.shape[0] % (math.prod(mesh.shape[a] for a in axes) * size) == 0:
            axes.append(axis)
    return jax.sharding.reshard(x, PartitionSpec(tuple(axes) or None))
