"""A test at the start of a run: its attention kernel, on its mesh and in its number format, against the formula.

`skald train` calls `prove` before the first step: a kernel that lets documents see each other trains, and well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import config as c
from model import kernels
from model.kernels import AttentionMask, KernelError, reference
from model.kernels.shard_map import KEY, QUERY, SEGMENTS
from model.sharding import make_mesh, shard, shard_count, time_order

AXES = (QUERY, KEY, KEY, QUERY)  # of query, key, value and the context's cotangent
RESULTS = ("context", "gradient of query", "gradient of key", "gradient of value")
INSTEAD = "set execution.kernel=reference"
EXACT, ROUNDED = 1e-5, 2e-2  # differences relative to the norm, in float32 and where products are rounded to bfloat16


def prove(config: c.Model, execution: c.Execution, length: int) -> None:
    """Runs the kernel that rows of this many tokens get, once for every kind of attention in the model, on a short row
    a device. Nothing is run where that is the reference.

    Raises KernelError where the kernel cannot run, where a document changes with its neighbour by a single bit, and
    where the context or a gradient differs from the reference's.
    """
    for mixer in dict.fromkeys(block.mixer for block in c.blocks(config)):
        if isinstance(mixer, c.Attention):
            prove_attention(mixer, execution, length)


def prove_attention(config: c.Attention, execution: c.Execution, length: int) -> None:
    dtype = jnp.dtype(execution.dtype)
    query, key = (
        jax.ShapeDtypeStruct((shard_count("batch"), heads, length, config.head_width), dtype)
        for heads in (config.heads, config.kv_heads)
    )
    weight_dropout = (config.dropout, jax.eval_shape(jax.random.key, 0))
    name = kernels.choose_kernel(execution.kernel, query, key, AttentionMask(None), weight_dropout)
    kernel = kernels.KERNELS[name]
    if kernel.attention is reference.attention:
        return
    said = f"execution.kernel={name}" if execution.kernel == name else f"execution.kernel={execution.kernel} ({name})"
    row = proof_rows(config, shard_count("batch"), kernel.proof_length * shard_count("time"), dtype)
    try:
        differences, changed = jax.device_get(
            compare_with_reference(kernel.attention, row, reference_results(row), dtype)
        )
    except RuntimeError as error:  # of XLA, or NotImplementedError of a library
        raise KernelError(f"{said} does not run here: {str(error).splitlines()[0]}; {INSTEAD}") from error
    if changed:
        raise KernelError(f"{said} lets documents of one row see each other ({changed} numbers changed); {INSTEAD}")
    limit = EXACT if dtype == jnp.float32 and kernels.platform() == "cpu" else ROUNDED
    for result, difference in zip(RESULTS, differences, strict=True):
        if not difference <= limit:
            raise KernelError(f"{said}: {result} is off by {difference:.1e} of its norm, not {limit:g}; {INSTEAD}")


class ProofRows(NamedTuple):
    """Arrays of `count` rows, float32; `slope` is the context's cotangent."""

    query_BNTH: np.ndarray
    key_BKSH: np.ndarray
    value_BKSH: np.ndarray
    slope_BNTH: np.ndarray
    segments_BT: np.ndarray


def proof_rows(config: c.Attention, count: int, length: int, dtype: jnp.dtype) -> ProofRows:
    """Random numbers that `dtype` has too. Documents of 3, length - 8, 4 and 1 tokens: the second crosses every border
    of blocks and of devices."""
    random, size = np.random.default_rng(0), config.head_width
    heads = (config.heads, config.kv_heads, config.kv_heads, config.heads)
    query, *others = (random.standard_normal((count, n, length, size), np.float32) for n in heads)
    query *= size**-0.5  # scores of deviation 1
    segments = np.repeat(np.arange(1, 5, dtype=np.int32), (3, length - 8, 4, 1))
    arrays = (np.asarray(x.astype(dtype), np.float32) for x in (query, *others))
    return ProofRows(*arrays, np.tile(segments, (count, 1)))


def reference_results(row: ProofRows) -> list[np.ndarray]:
    """Context and gradients by the reference in float32, on one device of this process."""
    *arrays, segments_BT = row

    @jax.jit
    def run(*arrays):
        *given, slope = arrays
        mask = AttentionMask(jnp.broadcast_to(jnp.arange(segments_BT.shape[1]), segments_BT.shape), segments_BT)
        context, back = jax.vjp(lambda *x: reference.attention(*x, mask), *given)
        return [context, *back(slope)]

    with jax.set_mesh(make_mesh({}, jax.local_devices()[:1])), jax.default_matmul_precision("highest"):
        return jax.device_get(run(*arrays))


def compare_with_reference(attention: Callable, row: ProofRows, expected: list[np.ndarray], dtype: jnp.dtype) -> tuple:
    """How far context and gradients are from what is expected, relative to its norm; and how many numbers of the second
    and fourth document's context change when the first and third are others."""
    *arrays, segments_BT = row
    order = time_order(segments_BT.shape[1])
    slots_BT = np.broadcast_to(order.astype(np.int32), segments_BT.shape)
    segments_BT, first_and_third = segments_BT[:, order], segments_BT[:, None, order, None] % 2 == 1
    arrays, expected = ([x[:, :, order] for x in group] for group in (arrays, expected))

    @jax.jit  # one program for both rows: another might round otherwise
    def run(*arrays):
        mask = AttentionMask(shard(jnp.asarray(slots_BT), *SEGMENTS), shard(jnp.asarray(segments_BT), *SEGMENTS))
        *given, slope = (shard(x, *axes).astype(dtype) for x, axes in zip(arrays, AXES, strict=True))
        context, back = jax.vjp(lambda *x: attention(*x, mask), *given)
        return [context, *back(slope)]

    @jax.jit
    def compare(found, of_others, expected):
        expected = [shard(x, *axes) for x, axes in zip(expected, (QUERY, *AXES[:3]), strict=True)]
        changed = jnp.sum(~first_and_third & (found[0] != of_others[0]))
        return [relative_difference(x, y) for x, y in zip(found, expected, strict=True)], changed

    # One at a time: on CPU programs that do not take each other's results may block each other (train/in_flight.py).
    found = jax.block_until_ready(run(*arrays))
    return compare(found, run(*(np.where(first_and_third, -x, x) for x in arrays)), expected)


def relative_difference(found: jax.Array, expected: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(found.astype(jnp.float32) - expected)) / jnp.sum(jnp.square(expected)))
