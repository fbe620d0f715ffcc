"""A permutation of 0 .. n-1 that holds nothing in memory: a keyed Feistel network with cycle walking.

data/packing.py orders each epoch's rows with one (Black & Rogaway 2002, method 3).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def splitmix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): uint64 -> uint64, every bit of the input in every bit out."""
    x = np.asarray(x, np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int) -> np.uint64:
    """One 64-bit key from whole numbers: seed, epoch, purpose."""
    state = np.uint64(0)
    for part in parts:
        state = splitmix64(state ^ splitmix64(np.uint64(part)))
    return state


def permute(index: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    """Where each index of 0 .. size-1 goes under the permutation of that key. int64 in, int64 out."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    place = np.asarray(index, np.uint64)
    outside = np.ones(place.shape, bool)
    while outside.any():
        left, right = place >> np.uint64(half), place & mask
        for round_ in range(ROUNDS):
            with np.errstate(over="ignore"):
                turned = splitmix64(right ^ splitmix64(key + np.uint64(round_))) & mask
            left, right = right, left ^ turned
        place = np.where(outside, (left << np.uint64(half)) | right, place)
        outside = place >= np.uint64(size)
    return place.astype(np.int64)
