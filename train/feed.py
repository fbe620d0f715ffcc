"""Rows onto devices: every process asks the data for what its own devices hold, and nothing else. Time is laid out
as sharding.time_order says.

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
    """Rows of steps first .. first + count as arrays [steps, M, B / M, T], on the current mesh."""
    shape = rows_shape(count, microbatches, batch, length)
    order_T = time_order(length)
    parts: dict[tuple[int, int], list[Rows]] = {}

    def part(start: int, stop: int) -> list[Rows]:
        """Rows start .. stop of every microbatch of every step, stacked; made once for all fields and devices."""
        if (start, stop) not in parts:
            size = shape[2]
            made = [
                [rows(first + step, m * size + start, m * size + stop) for m in range(microbatches)]
                for step in range(count)
            ]
            parts[start, stop] = Rows(*(np.stack([np.stack(f) for f in fields]) for fields in transpose_fields(made)))
        return parts[start, stop]

    def field(index: int) -> jax.Array:
        def block(slices: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = slices[2].indices(shape[2])
            return part(start, stop)[index][slices[0], slices[1], :, order_T[slices[3]]]

        return jax.make_array_from_callback(shape, row_sharding((None, None, *ROW_AXES), shape), block)

    return Rows(*(field(index) for index in range(len(Rows._fields))))


def rows_shape(count: int, microbatches: int, batch: int, length: int) -> tuple[int, int, int, int]:
    return count, microbatches, batch // microbatches, length


def transpose_fields(made: list[list[Rows]]) -> list[list[list[np.ndarray]]]:
    """[step][microbatch] of Rows -> [field][step][microbatch]."""
    return [[[rows[field] for rows in step] for step in made] for field in range(len(Rows._fields))]


def shard_rows(rows: ScoredRows) -> ScoredRows:
    """Host rows [B, T] on the current mesh, split as activations are."""
    order_T = time_order(rows.text.shape[1])

    def field(values: np.ndarray) -> jax.Array:
        def block(slices: tuple[slice, ...]) -> np.ndarray:
            return values[slices[0]][:, order_T[slices[1]]]

        return jax.make_array_from_callback(values.shape, row_sharding(ROW_AXES, values.shape), block)

    return jax.tree.map(field, rows)


def row_sharding(axes: tuple[str | None, ...], shape: tuple[int, ...]):
    wanted = partition_spec(axes, shape, "compute")
    if wanted is None:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(jax.sharding.get_mesh(), wanted)
