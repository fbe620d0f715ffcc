"""Finds the stacks of a list of layers: the shortest patterns that repeat. Readers of configs (model/hf) call it."""

from __future__ import annotations

from collections.abc import Sequence

from model import config as c


def as_stacks(blocks: Sequence[c.Block]) -> tuple[c.Stack, ...]:
    """The layers as stacks of repeated patterns, with as few blocks to compile as this search finds: at each place the
    pattern that covers the most layers for its length, and the shorter of two."""
    stacks, first = [], 0
    while first < len(blocks):
        rest = blocks[first:]
        pattern = max(range(1, len(rest) + 1), key=lambda size: (repeats(rest, size) * size - size, -size))
        stacks.append(c.Stack(tuple(rest[:pattern]), repeats(rest, pattern)))
        first += pattern * stacks[-1].repeats
    return tuple(stacks)


def repeats(blocks: Sequence[c.Block], size: int) -> int:
    """How many times the first `size` blocks stand at the beginning, one after another."""
    count = 1
    while tuple(blocks[count * size : (count + 1) * size]) == tuple(blocks[:size]):
        count += 1
    return count
