"""SEAM 2, the layer schedule: in what order a stack's layers run, and what the backward pass recomputes.

model/transformer.py gives it one repeat of a stack's pattern as a function. Scanned, unrolled or in stages, the
parameters are the same tree, with an axis L in front.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import checkpoint_policies as keep

from model import config as c
from model.reading import Reading, Stream

MATRICES = ("query", "key", "value", "context", "middle", "gate", "up")  # results of a layer's matrix products
ATTENTION = ("query", "key", "value", "context", "middle")  # those before the feed-forward: half the memory
REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,  # all is saved
    "minimal": lambda layer: jax.checkpoint(layer, policy=keep.save_only_these_names(*MATRICES)),
    "save_qkv": lambda layer: jax.checkpoint(layer, policy=keep.save_only_these_names(*ATTENTION)),
    "full": jax.checkpoint,  # nothing but each layer's input is saved
    "offload": lambda layer: jax.checkpoint(layer, policy=to_host(ATTENTION)),  # kept in the host's memory
}

Repeat = Callable[[Stream, Reading, object, jax.Array | None], Stream]


def to_host(names: tuple[str, ...]) -> Callable:
    return keep.save_and_offload_only_these_names(
        names_which_can_be_saved=(), names_which_can_be_offloaded=names, offload_src="device", offload_dst="pinned_host"
    )


def run(repeat: Repeat, stream: Stream, reading: Reading, stacked, keys, execution: c.Execution) -> Stream:
    """`repeat(stream, reading, parameters, key)` for every entry of `stacked` [L, …] and `keys` [L] (or None)."""
    return ordered(repeat, stream, reading, stacked, keys, execution)


def ordered(repeat: Repeat, stream: Stream, reading: Reading, stacked, keys, execution: c.Execution) -> Stream:
    """Layer after layer, in one scan that compiles one of them, or unrolled."""
    one = REMAT[execution.remat](lambda stream, given: repeat(stream, reading, *given))
    if execution.layers == "scan":
        return jax.lax.scan(lambda stream, given: (one(stream, given), None), stream, (stacked, keys))[0]
    for given in taken_apart((stacked, keys)):
        stream = one(stream, given)
    return stream


def taken_apart(stacked) -> list:
    """A tree of stacked arrays [L, ...] as L trees. By one split, whose gradient is one concatenation: indexing, layer
    after layer, would add up L arrays of the whole stack's size."""
    leaves, structure = jax.tree.flatten(stacked)
    parts = [[jnp.squeeze(part, 0) for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
