"""Finds the stacks of a list of layers: patterns that repeat. Readers of configs (model/hf) call it."""

from __future__ import annotations

from collections.abc import Sequence

from model import config as c


def as_stacks(blocks: Sequence[c.Block]) -> tuple[c.Stack, ...]:
    """The layers as stacks of repeated patterns, with as few blocks to compile as there can be, and then as few stacks.

    From the last layer to the first: the best cover of the layers from each one on, of all patterns that begin there.
    """
    kinds = list(dict.fromkeys(blocks))
    layers = [kinds.index(block) for block in blocks]
    covers: dict[int, tuple[int, tuple[c.Stack, ...]]] = {len(layers): (0, ())}
    for first in reversed(range(len(layers))):
        options = []
        for size in range(1, len(layers) - first + 1):
            pattern = tuple(blocks[first : first + size])
            for repeats in range(1, count_repeats(layers[first:], size) + 1):
                compiled, rest = covers[first + size * repeats]
                options.append((compiled + size, (c.Stack(pattern, repeats), *rest)))
        covers[first] = min(options, key=lambda option: (option[0], len(option[1])))
    return covers[0][1]


def count_repeats(layers: list[int], size: int) -> int:
    """How many times the first `size` layers stand at the beginning, one after another."""
    count = 1
    while layers[count * size : (count + 1) * size] == layers[:size]:
        count += 1
    return count
