"""Which continuations are scored together: prompts and continuations as arrays of few shapes. likelihood.py calls it.

Rows are counted by device: prompt i of a batch is row i // D of device i % D, and its continuations are on that device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from model.decode.parameters import power_of_two
from train.continuations import Likelihoods

TOKENS = 4096  # slots of a device's rows in a batch: enough for its products, little enough for any memory
LEAST_SHARED = 32  # tokens at the beginning of many prompts that are worth a program of their own
LEAST_FAMILY = 8  # prompts that share them
LEAST_LENGTH = 4  # columns of arrays


class Prompt(NamedTuple):
    """A prompt, and the continuations behind it by the index of their request."""

    ids: tuple[int, ...]
    continuations: list[tuple[int, tuple[int, ...]]]

    @property
    def longest(self) -> int:
        """Tokens of its longest continuation that are read: the last is only predicted."""
        return max(len(ids) for _, ids in self.continuations) - 1


class Reading(NamedTuple):
    """Prompts to be read into caches of so many `slots`, and the first tokens of their continuations.

    `prefix`: tokens [D, T] and counts that all rows begin with; None: nothing. `arrays`: tokens [B, T] and counts [B]
    behind it. `first`: row and first token [N] of each continuation; `indices`: [N], of requests, -1 where there is
    none.
    """

    prefix: tuple[np.ndarray, np.ndarray] | None
    arrays: tuple[np.ndarray, np.ndarray]
    slots: int
    first: tuple[np.ndarray, np.ndarray]
    indices: np.ndarray

    def scored(self, found: Likelihoods) -> Iterator[tuple[int, float, bool]]:
        """(index of the request, nats, is greedy) of every continuation's first token."""
        for index, nats, is_greedy in zip(self.indices.tolist(), found.nats, found.is_greedy, strict=True):
            if index >= 0:
                yield index, float(nats), bool(is_greedy)


class Extension(NamedTuple):
    """The rests of continuations: row of the prompt [B], tokens [B, T], counts [B], targets [B, T]; `indices` [B]."""

    arrays: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    indices: np.ndarray

    def scored(self, found: Likelihoods) -> Iterator[tuple[int, float, bool]]:
        """(index of the request, nats, is greedy) of every continuation behind its first token."""
        is_real_BT = np.arange(found.nats.shape[1]) < self.arrays[2][:, None]
        nats_B = np.where(is_real_BT, found.nats, 0).astype(np.float64).sum(1)
        is_greedy_B = (found.is_greedy | ~is_real_BT).all(1)
        for index, nats, is_greedy in zip(self.indices.tolist(), nats_B.tolist(), is_greedy_B.tolist(), strict=True):
            if index >= 0:
                yield index, nats, is_greedy


class Batch(NamedTuple):
    """Prompts that are read together, by device, the tokens before them all taken off."""

    prompts: list[list[Prompt]]
    reading: Reading


def batches(prompts: Sequence[Prompt], devices: int) -> Iterator[Batch]:
    """All prompts, those of a family together, else the longest first."""
    singles = []
    for family, shared in families(sorted(prompts)):
        if len(family) >= LEAST_FAMILY and shared >= LEAST_SHARED:
            yield from family_batches(family, min(shared, min(len(prompt.ids) for prompt in family) - 1), devices)
        else:
            singles += family
    yield from family_batches(singles, 0, devices)


def families(prompts: Sequence[Prompt]) -> Iterator[tuple[list[Prompt], int]]:
    """Sorted prompts in parts, and how many tokens all of a part begin with. A part ends where one more prompt would
    save fewer tokens than it costs the others."""
    family, shared = [], 0
    for prompt in prompts:
        common = shared_tokens(family[-1].ids, prompt.ids) if family else 0
        common = common if len(family) < 2 else min(shared, common)
        if family and (common < LEAST_SHARED or len(family) * common < (len(family) - 1) * shared):
            yield family, shared
            family, common = [], 0
        family.append(prompt)
        shared = common
    if family:
        yield family, shared


def shared_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with together."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def family_batches(prompts: Sequence[Prompt], shared: int, devices: int) -> Iterator[Batch]:
    """Batches of prompts whose first `shared` tokens are the same, the longest first."""
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.ids))
    while ordered:
        length = padded(len(ordered[0].ids) - shared)
        rest = max(prompt.longest for prompt in ordered[: devices * rows_of(length)])
        slots = length + (padded(shared) if shared else 0) + rest_length(rest)
        count = devices * rows_of(slots)
        taken, ordered = ordered[:count], ordered[count:]
        yield batch(taken, shared, length, slots, devices)


def batch(prompts: list[Prompt], shared: int, length: int, slots: int, devices: int) -> Batch:
    by_device = [prompts[device::devices] for device in range(devices)]
    prefix = stack([[prompts[0].ids[:shared]]] * devices, 1, padded(shared)) if shared else None
    rows = power_of_two(len(by_device[0]))
    arrays = stack([[prompt.ids[shared:] for prompt in own] for own in by_device], rows, length)
    entries = [
        [(row, ids[0], index) for row, prompt in enumerate(own) for index, ids in prompt.continuations]
        for own in by_device
    ]
    count = power_of_two(max(map(len, entries)))
    row_N, target_N, index_N = by_rows(entries, count)
    return Batch(by_device, Reading(prefix, arrays, slots, (row_N, target_N), index_N))


def by_rows(entries: list[list[tuple[int, int, int]]], count: int) -> Iterator[np.ndarray]:
    """Rows, targets and indices of requests as arrays [D * count]; the index -1 where a device has no entry more."""
    filled = np.zeros((3, len(entries), count), np.int32)
    filled[2] = -1
    for device, own in enumerate(entries):
        if own:
            filled[:, device, : len(own)] = np.transpose(own)
    return iter(filled.reshape(3, -1))


def extensions(batch: Batch) -> Iterator[Extension]:
    """What is behind the first tokens of a batch's continuations, the longest first."""
    queues = [
        sorted(
            ((len(ids) - 1, row, index, ids) for row, p in enumerate(own) for index, ids in p.continuations if ids[1:]),
            key=lambda entry: -entry[0],
        )
        for own in batch.prompts
    ]
    while any(queues):
        length = rest_length(max(queue[0][0] for queue in queues if queue))
        count = min(rows_of(batch.reading.slots), power_of_two(max(map(len, queues))))
        taken, queues = [queue[:count] for queue in queues], [queue[count:] for queue in queues]
        row_B, _, index_B = by_rows([[(row, 0, index) for _, row, index, _ in own] for own in taken], count)
        tokens_BT, count_B = stack([[ids[:-1] for *_, ids in own] for own in taken], count, length)
        targets_BT, _ = stack([[ids[1:] for *_, ids in own] for own in taken], count, length)
        yield Extension((row_B, tokens_BT, count_B, targets_BT), index_B)


def stack(texts: list[list[Sequence[int]]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of each device as tokens [D * rows, length], padded on the right, and how many each row has [D * rows]."""
    tokens_DRT = np.zeros((len(texts), rows, length), np.int32)
    count_DR = np.zeros((len(texts), rows), np.int32)
    for device, own in enumerate(texts):
        for row, ids in enumerate(own):
            tokens_DRT[device, row, : len(ids)], count_DR[device, row] = ids, len(ids)
    return tokens_DRT.reshape(-1, length), count_DR.reshape(-1)


def padded(length: int) -> int:
    """A length from which few shapes follow: a multiple of an eighth of the next power of two."""
    size = max(power_of_two(length), LEAST_LENGTH)
    step = max(size // 8, LEAST_LENGTH)
    return -(-length // step) * step


def rest_length(tokens: int) -> int:
    """Columns for the rests of continuations; 0 where there are none."""
    return max(power_of_two(tokens), LEAST_LENGTH) if tokens else 0


def rows_of(slots: int) -> int:
    """Rows of a device, a power of two, that together have about TOKENS slots."""
    return max(1, power_of_two(TOKENS // slots + 1) // 2)
