"""SEAM 2, the layer schedule: in what order a stack's layers run, and what the backward pass recomputes.

model/transformer.py gives it one repeat of a stack's pattern as a function. Scanned, unrolled or in stages, the
parameters are the same tree, with an axis L in front.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import checkpoint_policies as keep

from model import config as c
from model.reading import Reading, Stream
from model.sharding import ShardingError, joined, shards, split

ATTENTION = ("norm", "query", "key", "value", "context", "middle")  # norms' factors, products before the feed-forward
MATRICES = (*ATTENTION, "gate", "up")  # all of a layer's products: twice the memory
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
    order = pipelined if stages() > 1 else ordered
    return order(repeat, stream, reading, stacked, keys, execution)


def ordered(repeat: Repeat, stream: Stream, reading: Reading, stacked, keys, execution: c.Execution) -> Stream:
    """Layer after layer, in one scan that compiles one of them, or unrolled."""
    one = REMAT[execution.remat](lambda stream, given: repeat(stream, reading, *given))
    return LAYERS[execution.layers](one, stream, (stacked, keys))


def scanned(one: Callable, stream: Stream, given) -> Stream:
    return jax.lax.scan(lambda stream, layer: (one(stream, layer), None), stream, given)[0]


def unrolled(one: Callable, stream: Stream, given) -> Stream:
    return functools.reduce(one, taken_apart(given), stream)


LAYERS = {"scan": scanned, "unroll": unrolled}


def pipelined(repeat: Repeat, stream: Stream, reading: Reading, stacked, keys, execution: c.Execution) -> Stream:
    """A pipeline over the stages, each of which holds L / stages layers (GPipe, Huang et al. 2019).

    Rows are cut into M microbatches; at tick t stage s works on microbatch t - s and hands it on, so that the whole
    takes M + stages - 1 ticks. Until its first and after its last a stage works on padding: `bubble` of its time.
    """
    count = stages()
    parts = microbatches(stream.x_BTD.shape[0], execution)
    cut = lambda tree: jax.tree.map(lambda x: split(x, 0, parts, "batch"), tree)  # noqa: E731
    if reading.visible.segments_BT is None:
        ones_BT = jnp.ones_like(reading.positions_BT)
        reading = dataclasses.replace(reading, visible=reading.visible._replace(segments_BT=ones_BT))

    def stage(streams, readings, stacked, keys):
        number = jax.lax.axis_index("stage")

        def tick(handed, time):
            mine = time - number
            place, real = jnp.clip(mine, 0, parts - 1), (mine >= 0) & (mine < parts)
            reading = padded_unless(real, jax.tree.map(lambda x: x[place], readings))
            begun = jax.tree.map(lambda x: x[place], streams)
            stream = jax.tree.map(lambda new, old: jnp.where(number == 0, new, old), begun, handed)
            done = ordered(repeat, stream, reading, stacked, of_microbatch(keys, place), execution)
            return jax.tree.map(handed_on, done), done

        nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), streams)
        _, done = jax.lax.scan(tick, nothing, jnp.arange(parts + count - 1))
        last = jax.tree.map(lambda x: jnp.where(number == count - 1, x[count - 1 :], 0), done)
        return jax.tree.map(lambda x: jax.lax.psum(x, "stage"), last)

    here, whole = jax.P("stage"), jax.P()
    keys = jax.tree.map(lambda keys: jax.sharding.reshard(keys, here), keys)  # None stays None
    specs = {"in_specs": (whole, whole, here, here), "out_specs": whole, "axis_names": {"stage"}}
    # Unchecked: else JAX (0.10 to 0.12) names the stages in what the shard_maps inside keep, and its compiler refuses.
    done = jax.shard_map(stage, **specs, check_vma=False)(cut(stream), cut(reading), stacked, keys)
    return jax.tree.map(lambda x: joined(x, 0, "batch"), done)


def stages() -> int:
    return shards("layers", "storage")


def microbatches(rows: int, execution: c.Execution) -> int:
    """Into how many a pipeline cuts `rows` rows; 1 where there is none. Raises ShardingError where they do not
    divide."""
    asked, mine = execution.stage_microbatches, rows // shards("batch")
    if stages() == 1:
        return 1
    if asked and mine % asked:
        fits = [n for n in range(1, mine + 1) if mine % n == 0]
        raise ShardingError(
            f"execution.stage_microbatches={asked} does not divide the {mine} rows on each of {shards('batch')} "
            f"shards; those that do: {', '.join(map(str, fits))}"
        )
    return asked or max(n for n in range(1, min(4 * stages(), mine) + 1) if mine % n == 0)


def rows_together(execution: c.Execution) -> int:
    """Rows come in multiples of this many."""
    return shards("batch") * (execution.stage_microbatches or 1 if stages() > 1 else 1)


def bubble(parts: int, count: int) -> float:
    """The share of a stage's time that it waits for others (Narayanan et al. 2021, 2.2.1, as a share of the whole)."""
    return (count - 1) / (parts + count - 1)


def handed_on(x: jax.Array) -> jax.Array:
    """Each stage's x at the next one; the first gets the last's, which it does not use."""
    count = stages()
    return jax.lax.ppermute(x, "stage", [(s, (s + 1) % count) for s in range(count)])


def of_microbatch(keys: jax.Array | None, number: jax.Array) -> jax.Array | None:
    """Every layer's dropout key [L] for one microbatch: with its own, each microbatch would drop the same places."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def padded_unless(real: jax.Array, reading: Reading) -> Reading:
    """All padding, which counts nowhere, unless `real`."""
    visible = reading.visible._replace(segments_BT=jnp.where(real, reading.visible.segments_BT, 0))
    return dataclasses.replace(reading, visible=visible)


def taken_apart(stacked) -> list:
    """A tree of stacked arrays [L, ...] as L trees. By one split, whose gradient is one concatenation: indexing, layer
    after layer, would add up L arrays of the whole stack's size."""
    leaves, structure = jax.tree.flatten(stacked)
    parts = [[jnp.squeeze(part, 0) for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
