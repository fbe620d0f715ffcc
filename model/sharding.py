"""Where every array lives: the axis glossary, the mesh, and THE table from logical axes to mesh axes.

Layers name the axes of their parameters and activations; nothing else in the project knows a mesh axis.
With no mesh set (a notebook, a parity test) every function here is the identity.

Axes, as letters in shapes and einsum strings, and by name in the table:

    B batch          rows of the global batch           S source     key positions (never sharded by name)
    T time           query positions                    F feed_forward  hidden features of the feed-forward
    D width          features of the residual stream    V vocab      token ids
    N heads          query heads                        L layers     layers of a stack
    K kv_heads       key-value heads                    H head_width features of one head
    G                query heads per key-value head     E experts
"""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, PartitionSpec

MESH_AXES = ("replica", "stage", "data", "context", "expert", "tensor")  # slowest links first

# Logical axis -> the mesh axes that split it. `storage`: parameters and optimizer state at rest. `compute`: the
# same parameters while a layer uses them, and activations. Width is split at rest only: it is gathered, layer by
# layer, before use (ZeRO-3 / fsdp).
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "storage": {
        "layers": ("stage",),
        "width": ("data",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "feed_forward": ("tensor",),
        "vocab": ("tensor",),
    },
    "compute": {
        "batch": ("replica", "data"),
        "time": ("context",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "feed_forward": ("tensor",),
        "vocab": ("tensor",),
    },
}


class ShardingError(ValueError):
    """A size that does not divide over its mesh axes, or a mesh that does not fit the devices: one line."""


def make_mesh(sizes: dict[str, int], devices: list | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices; `sizes` gives devices per mesh axis, and one of them may be 0: the rest.

    Raises ShardingError where the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    free = [axis for axis, size in shape.items() if size == 0]
    fixed = math.prod(size for size in shape.values() if size)
    said = " x ".join(f"{axis}={size}" for axis, size in shape.items() if size not in (0, 1)) or "1"
    if min(shape.values()) < 0:
        raise ShardingError(f"mesh: {said}: sizes are at least 1, or 0 for the rest")
    if len(free) > 1:
        raise ShardingError(f"mesh: only one axis may be 0 (the rest), not {' and '.join(free)}")
    if len(devices) % fixed or (not free and fixed != len(devices)):
        fits = [d for d in range(1, len(devices) + 1) if len(devices) % d == 0] if free else [len(devices)]
        raise ShardingError(
            f"mesh: {said} needs {fixed} devices and there are {len(devices)}; "
            f"sizes that multiply to {' or '.join(map(str, fits))} fit, or set mesh.data=0 for the rest"
        )
    if free:
        shape[free[0]] = len(devices) // fixed
    explicit = (AxisType.Explicit,) * len(MESH_AXES)
    return jax.make_mesh(tuple(shape.values()), MESH_AXES, axis_types=explicit, devices=devices)


def spec(axes: tuple[str | None, ...], shape: tuple[int, ...], table: str) -> PartitionSpec | None:
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
            low, high = size - size % over, size + over - size % over
            raise ShardingError(
                f"{axis} of size {size} does not divide over mesh {' x '.join(f'{m}={sizes[m]}' for m in claimed)}; "
                f"the nearest that work are {f'{low} and ' if low else ''}{high}"
            )
        parts.append(claimed or None)
    return PartitionSpec(*parts)


def place(x: jax.Array, *axes: str | None) -> jax.Array:
    """An activation, split as its logical axes say."""
    wanted = spec(axes, x.shape, "compute")
    return x if wanted is None else jax.sharding.reshard(x, wanted)


def shards(axis: str) -> int:
    """Into how many parts the current mesh splits a logical axis in compute; 1 with no mesh."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(m, 1) for m in TABLE["compute"].get(axis, ()))


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
