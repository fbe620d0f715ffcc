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
from model.forward_pass import ForwardPass, ResidualStream
from model.sharding import ShardingError, join_within_shards, shard_count, split_within_shards

ATTENTION = ("norm", "query", "key", "value", "context", "middle")  # norms' factors, products before the feed-forward
MATRICES = (*ATTENTION, "gate", "up")  # all of a layer's products: twice the memory
REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,  # all is saved
    "minimal": lambda layer: jax.checkpoint(layer, policy=keep.save_only_these_names(*MATRICES)),
    "save_qkv": lambda layer: jax.checkpoint(layer, policy=keep.save_only_these_names(*ATTENTION)),
    "full": jax.checkpoint,  # nothing but each layer's input is saved
    "offload": lambda layer: jax.checkpoint(layer, policy=offload_policy(ATTENTION)),  # kept in the host's memory
}

LayerFunction = Callable[[ResidualStream, ForwardPass, object, jax.Array | None], ResidualStream]


def offload_policy(names: tuple[str, ...]) -> Callable:
    return keep.save_and_offload_only_these_names(
        names_which_can_be_saved=(), names_which_can_be_offloaded=names, offload_src="device", offload_dst="pinned_host"
    )


def run_layers(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """`repeat(stream, reading, parameters, key)` for every entry of `stacked` [L, …] and `keys` [L] (or None)."""
    order = pipeline if stage_count() > 1 else sequential
    return order(repeat, stream, forward_pass, stacked, keys, execution)


def sequential(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """Layer after layer, in one scan that compiles one of them, or unrolled."""
    one = REMAT[execution.remat](lambda stream, given: repeat(stream, forward_pass, *given))
    return LAYERS[execution.layers](one, stream, (stacked, keys))


def scan(one: Callable, stream: ResidualStream, given) -> ResidualStream:
    return jax.lax.scan(lambda stream, layer: (one(stream, layer), None), stream, given)[0]


def unroll(one: Callable, stream: ResidualStream, given) -> ResidualStream:
    return functools.reduce(one, unstack(given), stream)


LAYERS = {"scan": scan, "unroll": unroll}


def pipeline(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """A pipeline over the stages, each of which holds L / stages layers (GPipe, Huang et al. 2019).

    Rows are cut into M microbatches; at tick t stage s works on microbatch t - s and hands it on, so that the whole
    takes M + stages - 1 ticks. Until its first and after its last a stage works on padding: `bubble` of its time.
    """
    count = stage_count()
    parts = microbatch_count(stream.x_BTD.shape[0], execution)
    cut = lambda tree: jax.tree.map(lambda x: split_within_shards(x, 0, parts, "batch"), tree)  # noqa: E731
    if forward_pass.mask.segments_BT is None:
        ones_BT = jnp.ones_like(forward_pass.positions_BT)
        forward_pass = dataclasses.replace(forward_pass, mask=forward_pass.mask._replace(segments_BT=ones_BT))

    def stage(streams, forward_passes, stacked, keys):
        number = jax.lax.axis_index("stage")

        def tick(handed, time):
            mine = time - number
            place, real = jnp.clip(mine, 0, parts - 1), (mine >= 0) & (mine < parts)
            forward_pass = mask_unless(real, jax.tree.map(lambda x: x[place], forward_passes))
            begun = jax.tree.map(lambda x: x[place], streams)
            stream = jax.tree.map(lambda new, old: jnp.where(number == 0, new, old), begun, handed)
            done = sequential(repeat, stream, forward_pass, stacked, microbatch_keys(keys, place), execution)
            return jax.tree.map(send_to_next_stage, done), done

        nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), streams)
        _, done = jax.lax.scan(tick, nothing, jnp.arange(parts + count - 1))
        last = jax.tree.map(lambda x: jnp.where(number == count - 1, x[count - 1 :], 0), done)
        return jax.tree.map(lambda x: jax.lax.psum(x, "stage"), last)

    here, whole = jax.P("stage"), jax.P()
    keys = jax.tree.map(lambda keys: jax.sharding.reshard(keys, here), keys)  # None stays None
    specs = {"in_specs": (whole, whole, here, here), "out_specs": whole, "axis_names": {"stage"}}
    # Unchecked: else JAX (0.10 to 0.12) names the stages in what the shard_maps inside keep, and its compiler refuses.
    done = jax.shard_map(stage, **specs, check_vma=False)(cut(stream), cut(forward_pass), stacked, keys)
    return jax.tree.map(lambda x: join_within_shards(x, 0, "batch"), done)


def stage_count() -> int:
    return shard_count("layers", "storage")


def microbatch_count(rows: int, execution: c.Execution) -> int:
    """Into how many a pipeline cuts `rows` rows; 1 where there is none. Raises ShardingError where they do not
    divide."""
    asked, mine = execution.stage_microbatches, rows // shard_count("batch")
    if stage_count() == 1:
        return 1
    if asked and mine % asked:
        fits = [n for n in range(1, mine + 1) if mine % n == 0]
        raise ShardingError(
            f"execution.stage_microbatches={asked} does not divide the {mine} rows on each of {shard_count('batch')} "
            f"shards; those that do: {', '.join(map(str, fits))}"
        )
    return asked or max(n for n in range(1, min(4 * stage_count(), mine) + 1) if mine % n == 0)


def row_multiple(execution: c.Execution) -> int:
    """Rows come in multiples of this many."""
    return shard_count("batch") * (execution.stage_microbatches or 1 if stage_count() > 1 else 1)


def bubble_share(parts: int, count: int) -> float:
    """The share of a stage's time that it waits for others (Narayanan et al. 2021, 2.2.1, as a share of the whole)."""
    return (count - 1) / (parts + count - 1)


def send_to_next_stage(x: jax.Array) -> jax.Array:
    """Each stage's x at the next one; the first gets the last's, which it does not use."""
    count = stage_count()
    return jax.lax.ppermute(x, "stage", [(s, (s + 1) % count) for s in range(count)])


def microbatch_keys(keys: jax.Array | None, number: jax.Array) -> jax.Array | None:
    """Every layer's dropout key [L] for one microbatch: with its own, each microbatch would drop the same places."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def mask_unless(real: jax.Array, forward_pass: ForwardPass) -> ForwardPass:
    """All padding, which counts nowhere, unless `real`."""
    mask = forward_pass.mask._replace(segments_BT=jnp.where(real, forward_pass.mask.segments_BT, 0))
    return dataclasses.replace(forward_pass, mask=mask)


def unstack(stacked) -> list:
    """A tree of stacked arrays [L, ...] as L trees. By one split, whose gradient is one concatenation: indexing, layer
    after layer, would add up L arrays of the whole stack's size."""
    leaves, structure = jax.tree.flatten(stacked)
    parts = [[jnp.squeeze(part, 0) for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
