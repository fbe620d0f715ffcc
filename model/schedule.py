"""SEAM 2, the layer schedule: in what order a stack's layers run, and what the backward pass recomputes.

model/transformer.py calls `run_layers` with one repeat of a stack's pattern as a function. Whether layers are scanned,
unrolled or run in stages, their parameters are the same tree, with an axis L in front.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import checkpoint_policies as policies

from model import config as c
from model.forward_pass import ForwardPass, ResidualStream
from model.sharding import ShardingError, join_within_shards, shard_count, split_within_shards

# Checkpoint names of what a remat policy saves. MIXER: norms' factors, and products before the feed-forward.
MIXER = ("norm", "query", "key", "value", "context", "gates", "state", "middle")
MATRICES = (*MIXER, "gate", "up")  # all of a layer's products: twice the memory
REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,  # everything is saved
    "minimal": lambda layer: jax.checkpoint(layer, policy=policies.save_only_these_names(*MATRICES)),
    "save_qkv": lambda layer: jax.checkpoint(layer, policy=policies.save_only_these_names(*MIXER)),
    "full": jax.checkpoint,  # only each layer's input is saved
    "offload": lambda layer: jax.checkpoint(layer, policy=offload_policy(MIXER)),  # saved in the host's memory
}

LayerFunction = Callable[[ResidualStream, ForwardPass, object, jax.Array | None], ResidualStream]


def offload_policy(names: tuple[str, ...]) -> Callable:
    """A remat policy that saves what bears these names in the host's memory."""
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=(), names_which_can_be_offloaded=names, offload_src="device", offload_dst="pinned_host"
    )


def run_layers(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """Runs `repeat(stream, forward_pass, parameters, key)` for each of `stacked` [L, …] and `keys` [L] (or None)."""
    run = pipeline if stage_count() > 1 else sequential
    return run(repeat, stream, forward_pass, stacked, keys, execution)


def sequential(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """Runs layer after layer: in one scan, which compiles only one of them, or unrolled."""
    layer = REMAT[execution.remat](lambda stream, arguments: repeat(stream, forward_pass, *arguments))
    return LAYERS[execution.layers](layer, stream, (stacked, keys))


def scan(layer: Callable, stream: ResidualStream, stacked) -> ResidualStream:
    return jax.lax.scan(lambda stream, arguments: (layer(stream, arguments), None), stream, stacked)[0]


def unroll(layer: Callable, stream: ResidualStream, stacked) -> ResidualStream:
    return functools.reduce(layer, unstack(stacked), stream)


LAYERS = {"scan": scan, "unroll": unroll}


def pipeline(
    repeat: LayerFunction, stream: ResidualStream, forward_pass: ForwardPass, stacked, keys, execution: c.Execution
) -> ResidualStream:
    """Runs the layers as a pipeline of stages, each of which holds L / stages of them (GPipe, Huang et al. 2019).

    Rows are split into M microbatches. At tick t, stage s runs its layers on microbatch t - s and sends the result to
    the next stage; all of it takes M + stages - 1 ticks. Before its first microbatch and after its last one a stage
    works on padding, for `bubble_share` of its time.
    """
    stages = stage_count()
    microbatches = microbatch_count(stream.x_BTD.shape[0], execution)
    split = lambda tree: jax.tree.map(lambda x: split_within_shards(x, 0, microbatches, "batch"), tree)  # noqa: E731
    if forward_pass.mask.segments_BT is None:
        ones_BT = jnp.ones_like(forward_pass.positions_BT)
        mask = dataclasses.replace(forward_pass.mask, segments_BT=ones_BT)
        forward_pass = dataclasses.replace(forward_pass, mask=mask)

    def run_stage(streams, forward_passes, stacked, keys):
        stage = jax.lax.axis_index("stage")

        def run_tick(received, tick):
            microbatch = tick - stage  # below 0 or beyond the last one: padding
            index, is_real = jnp.clip(microbatch, 0, microbatches - 1), (microbatch >= 0) & (microbatch < microbatches)
            forward_pass = mask_unless(is_real, jax.tree.map(lambda x: x[index], forward_passes))
            entering = jax.tree.map(lambda x: x[index], streams)
            stream = jax.tree.map(lambda first, other: jnp.where(stage == 0, first, other), entering, received)
            output = sequential(repeat, stream, forward_pass, stacked, microbatch_keys(keys, index), execution)
            return jax.tree.map(send_to_next_stage, output), output

        zeros = jax.tree.map(lambda x: jnp.zeros_like(x[0]), streams)
        _, outputs = jax.lax.scan(run_tick, zeros, jnp.arange(microbatches + stages - 1))
        last = jax.tree.map(lambda x: jnp.where(stage == stages - 1, x[stages - 1 :], 0), outputs)
        return jax.tree.map(lambda x: jax.lax.psum(x, "stage"), last)

    by_stage, replicated = jax.P("stage"), jax.P()
    keys = jax.tree.map(lambda keys: jax.sharding.reshard(keys, by_stage), keys)  # None stays None
    in_specs = (replicated, replicated, by_stage, by_stage)
    specs = {"in_specs": in_specs, "out_specs": replicated, "axis_names": {"stage"}}
    # Unchecked: else JAX (0.10 to 0.12) names the stages in what the shard_maps inside save, and its compiler refuses.
    streams = jax.shard_map(run_stage, **specs, check_vma=False)(split(stream), split(forward_pass), stacked, keys)
    return jax.tree.map(lambda x: join_within_shards(x, 0, "batch"), streams)


def stage_count() -> int:
    return shard_count("layers", "storage")


def microbatch_count(rows: int, execution: c.Execution) -> int:
    """The number of microbatches into which a pipeline splits `rows` rows; 1 where there is no pipeline. Raises
    ShardingError where they do not divide."""
    requested, shard_rows = execution.stage_microbatches, rows // shard_count("batch")
    if stage_count() == 1:
        return 1
    if requested and shard_rows % requested:
        divisors = [n for n in range(1, shard_rows + 1) if shard_rows % n == 0]
        raise ShardingError(
            f"execution.stage_microbatches={requested} does not divide the {shard_rows} rows on each of "
            f"{shard_count('batch')} shards; those that do: {', '.join(map(str, divisors))}"
        )
    return requested or max(n for n in range(1, min(4 * stage_count(), shard_rows) + 1) if shard_rows % n == 0)


def row_multiple(execution: c.Execution) -> int:
    """The number that rows must be a multiple of: shards of the batch times microbatches, where these are set."""
    return shard_count("batch") * (execution.stage_microbatches or 1 if stage_count() > 1 else 1)


def bubble_share(microbatches: int, stages: int) -> float:
    """The share of its time that a stage waits for others (Narayanan et al. 2021, 2.2.1, as a share of the whole)."""
    return (stages - 1) / (microbatches + stages - 1)


def send_to_next_stage(x: jax.Array) -> jax.Array:
    """The previous stage's x; the first stage gets that of the last, and does not use it."""
    count = stage_count()
    return jax.lax.ppermute(x, "stage", [(s, (s + 1) % count) for s in range(count)])


def microbatch_keys(keys: jax.Array | None, index: jax.Array) -> jax.Array | None:
    """Each layer's dropout key [L] for one microbatch: with one key for all, each would drop the same positions."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def mask_unless(is_real: jax.Array, forward_pass: ForwardPass) -> ForwardPass:
    """The forward pass, with all its tokens marked as padding, which counts nowhere, unless `is_real`."""
    segments_BT = jnp.where(is_real, forward_pass.mask.segments_BT, 0)
    return dataclasses.replace(forward_pass, mask=dataclasses.replace(forward_pass.mask, segments_BT=segments_BT))


def unstack(stacked) -> list:
    """A tree of stacked arrays [L, ...] as a list of L trees. One split has one concatenation as its gradient; indexing
    layer after layer would instead add up L arrays of the whole stack's size."""
    leaves, structure = jax.tree.flatten(stacked)
    parts = [[jnp.squeeze(part, 0) for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
