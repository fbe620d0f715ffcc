"""A test at the start of a run: compares its attention kernel with the formula, on its mesh and in its number format.

`skald train` calls `prove` before the first step. A kernel that lets documents see each other would train, and well.
"""

from __future__ import annotations

import dataclasses
import functools
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

AXES = (QUERY, KEY, KEY, QUERY)  # of query, key, value and the context's gradient
RESULTS = ("context", "gradient of query", "gradient of key", "gradient of value")
REMEDY = "set execution.kernel=reference"
MAX_CAP = 2.0  # of scores: one of 50 would hardly change them
FLOAT32_LIMIT, BFLOAT16_LIMIT = 1e-5, 2e-2  # of differences relative to the norm, by what products are rounded to


def prove(config: c.Model, execution: c.Execution, length: int) -> None:
    """Tests the kernel that rows of `length` tokens get, once for each kind of attention in the model, on a short row
    per device. Where that kernel is the reference nothing is run.

    Raises KernelError if the kernel does not run, if a single bit of a document changes with its neighbour, or if the
    context or a gradient differs from the reference's.
    """
    for mixer in dict.fromkeys(block.mixer for block in c.blocks(config)):
        PROOFS[type(mixer)](mixer, execution, length)


def prove_attention(config: c.Attention, execution: c.Execution, length: int) -> None:
    dtype = jnp.dtype(execution.dtype)
    query, key, value, _ = (
        jax.ShapeDtypeStruct((shard_count("batch"), heads, length, width), dtype)
        for heads, width in head_shapes(config)
    )
    weight_dropout = (config.dropout, jax.eval_shape(jax.random.key, 0))
    mask = AttentionMask(None, window=config.window)
    name = kernels.choose_kernel(execution.kernel, query, key, value, mask, weight_dropout, config.score_cap)
    kernel = kernels.KERNELS[name]
    if kernel.attention is reference.attention:
        return
    label = f"execution.kernel={name}" if execution.kernel == name else f"execution.kernel={execution.kernel} ({name})"
    length = kernel.proof_length * shard_count("time")
    config = within_reach(config, length)
    rows = proof_rows(config, shard_count("batch"), length, dtype)
    one_document = rows._replace(segments_BT=np.ones_like(rows.segments_BT))  # for which a kernel may take no mask
    limit = FLOAT32_LIMIT if dtype == jnp.float32 and kernels.platform() == "cpu" else BFLOAT16_LIMIT
    for given in (rows, one_document):
        try:
            differences, changed = jax.device_get(
                compare_with_reference(config, kernel.attention, given, reference_results(config, given), dtype)
            )
        except RuntimeError as error:  # of XLA, or NotImplementedError of a library
            raise KernelError(f"{label} does not run here: {str(error).splitlines()[0]}; {REMEDY}") from error
        if changed:
            raise KernelError(f"{label} lets documents of one row see each other ({changed} numbers changed); {REMEDY}")
        for result, difference in zip(RESULTS, differences, strict=True):
            if not difference <= limit:
                raise KernelError(f"{label}: {result} is off by {difference:.1e} of its norm, not {limit:g}; {REMEDY}")


# Class of a mixer's config -> what proves the program that computes it.
PROOFS = {c.Attention: prove_attention, c.LSTM: lambda *_: None}  # one program computes an LSTM everywhere


def within_reach(config: c.Attention, length: int) -> c.Attention:
    """The same attention with a window and a cap that change something: rows of `length` tokens are longer than the
    window, and scores, whose deviation is 1, reach the cap."""
    window = config.window and min(config.window, length // 2)
    return dataclasses.replace(config, window=window, score_cap=config.score_cap and min(config.score_cap, MAX_CAP))


def head_shapes(config: c.Attention) -> list[tuple[int, int]]:
    """The number of heads and their width, of query, key, value and context."""
    value_width = config.value_width or config.head_width
    heads = (config.heads, config.kv_heads, config.kv_heads, config.heads)
    return list(zip(heads, (config.head_width, config.head_width, value_width, value_width), strict=True))


class ProofRows(NamedTuple):
    """The inputs of attention, and a gradient of its context for the backward pass; float32."""

    query_BNTH: np.ndarray
    key_BKSH: np.ndarray
    value_BKSH: np.ndarray
    context_gradient_BNTH: np.ndarray
    segments_BT: np.ndarray


def proof_rows(config: c.Attention, count: int, length: int, dtype: jnp.dtype) -> ProofRows:
    """`count` rows of random numbers that `dtype` represents exactly. Each has documents of 3, length - 8, 4 and 1
    tokens; the second crosses every border of blocks and of devices."""
    random = np.random.default_rng(0)
    shapes = [(count, heads, length, width) for heads, width in head_shapes(config)]
    query, *others = (random.standard_normal(shape, np.float32) for shape in shapes)
    query *= config.head_width**-0.5  # so that scores have deviation 1
    segments = np.repeat(np.arange(1, 5, dtype=np.int32), (3, length - 8, 4, 1))
    arrays = (np.asarray(x.astype(dtype), np.float32) for x in (query, *others))
    return ProofRows(*arrays, np.tile(segments, (count, 1)))


def reference_results(config: c.Attention, rows: ProofRows) -> list[np.ndarray]:
    """The reference's context and its gradients of query, key and value, in float32, on one device of this process."""
    slots_BT = np.broadcast_to(np.arange(rows.segments_BT.shape[1], dtype=np.int32), rows.segments_BT.shape)
    with jax.set_mesh(make_mesh({}, jax.local_devices()[:1])), jax.default_matmul_precision("highest"):
        return jax.device_get(context_and_gradients(reference.attention, config, jnp.float32, slots_BT, *rows))


# Jitted here, so that all rows of one shape take one program: another might round differently, and compiles for long.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def context_and_gradients(
    attention: Callable, config: c.Attention, dtype: jnp.dtype, slots_BT, *rows: jax.Array
) -> list[jax.Array]:
    """The context, and the gradients of query, key and value, of ProofRows in the order of the mesh, computed in
    `dtype`."""
    *arrays, segments_BT = rows
    mask = AttentionMask(*(shard(jnp.asarray(x), *SEGMENTS) for x in (slots_BT, segments_BT)), config.window)
    *inputs, context_gradient = (shard(x, *axes).astype(dtype) for x, axes in zip(arrays, AXES, strict=True))
    context, vjp = jax.vjp(lambda *x: attention(*x, mask, score_cap=config.score_cap), *inputs)
    return [context, *vjp(context_gradient)]


def compare_with_reference(
    config: c.Attention, attention: Callable, rows: ProofRows, expected: list[np.ndarray], dtype: jnp.dtype
) -> tuple:
    """Runs the kernel twice, the second time with each row's first and third document negated. Returns how far context
    and gradients are from `expected`, relative to its norm; and how many numbers of the context of the second and
    fourth document differ between the two runs."""
    *arrays, segments_BT = rows
    order = time_order(segments_BT.shape[1])
    slots_BT = np.broadcast_to(order.astype(np.int32), segments_BT.shape)
    segments_BT, first_and_third = segments_BT[:, order], segments_BT[:, None, order, None] % 2 == 1
    arrays, expected = ([x[:, :, order] for x in group] for group in (arrays, expected))

    def run(*arrays):
        return context_and_gradients(attention, config, dtype, slots_BT, *arrays, segments_BT)

    # One at a time: on CPU programs that do not take each other's results may block each other (train/in_flight.py).
    results = jax.block_until_ready(run(*arrays))
    return differences(results, run(*(np.where(first_and_third, -x, x) for x in arrays)), expected, first_and_third)


@jax.jit
def differences(results, negated_results, expected, first_and_third) -> tuple:
    """What `compare_with_reference` returns."""
    expected = [shard(x, *axes) for x, axes in zip(expected, (QUERY, *AXES[:3]), strict=True)]
    changed = jnp.sum(~first_and_third & (results[0] != negated_results[0]))
    return [relative_difference(x, y) for x, y in zip(results, expected, strict=True)], changed


def relative_difference(result: jax.Array, expected: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(result.astype(jnp.float32) - expected)) / jnp.sum(jnp.square(expected)))
