"""Puts rows onto devices: every process asks the data for what its own devices hold, and nothing else. Time is in the
order of sharding.time_order.

Called by train/run.py for training and by train/evaluate.py for scoring.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding

from data.rows import Rows, ScoredRows
from model.sharding import partition_spec, time_order

ROW_AXES = ("batch", "time")


def training_rows(
    rows: Callable[[int, int, int], Rows], first: int, count: int, microbatches: int, batch: int, length: int
) -> Rows:
    """The rows of steps first .. first + count as arrays [steps, M, B / M, T], split over the current mesh.

    `rows(step, start, stop)` returns rows start .. stop of a step's batch.
    """
    shape = rows_shape(count, microbatches, batch, length)
    order_T = time_order(length)
    cache: dict[tuple[int, int], list[Rows]] = {}

    def host_rows(start: int, stop: int) -> list[Rows]:
        """Rows start .. stop of every microbatch of every step, stacked; made once for all fields and devices."""
        if (start, stop) not in cache:
            size = shape[2]
            by_step = [
                [rows(first + step, m * size + start, m * size + stop) for m in range(microbatches)]
                for step in range(count)
            ]
            cache[start, stop] = Rows(*(np.stack([np.stack(x) for x in xs]) for xs in transpose_fields(by_step)))
        return cache[start, stop]

    def sharded_field(index: int) -> jax.Array:
        def shard(slices: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = slices[2].indices(shape[2])
            return host_rows(start, stop)[index][slices[0], slices[1], :, order_T[slices[3]]]

        return jax.make_array_from_callback(shape, row_sharding((None, None, *ROW_AXES), shape), shard)

    return Rows(*(sharded_field(index) for index in range(len(Rows._fields))))


def rows_shape(count: int, microbatches: int, batch: int, length: int) -> tuple[int, int, int, int]:
    return count, microbatches, batch // microbatches, length


def transpose_fields(by_step: list[list[Rows]]) -> list[list[list[np.ndarray]]]:
    """[step][microbatch] of Rows -> [field][step][microbatch]."""
    return [[[rows[field] for rows in step] for step in by_step] for field in range(len(Rows._fields))]


def shard_rows(rows: ScoredRows | Rows) -> ScoredRows | Rows:
    """Host rows [B, T] on the current mesh, split as activations are."""
    order_T = time_order(jax.tree.leaves(rows)[0].shape[1])

    def sharded_field(values: np.ndarray) -> jax.Array:
        def shard(slices: tuple[slice, ...]) -> np.ndarray:
            return values[slices[0]][:, order_T[slices[1]]]

        return jax.make_array_from_callback(values.shape, row_sharding(ROW_AXES, values.shape), shard)

    return jax.tree.map(sharded_field, rows)


def row_sharding(axes: tuple[str | None, ...], shape: tuple[int, ...]):
    spec = partition_spec(axes, shape, "compute")
    if spec is None:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(jax.sharding.get_mesh(), spec)
