"""A permutation of 0 .. n-1 that takes no memory: a keyed Feistel network with cycle walking.

The method is the third of Black & Rogaway 2002. data/packing.py orders each epoch's rows with it.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


@np.errstate(over="ignore")
def splitmix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014), a hash of uint64: every output bit depends on every input bit."""
    x = np.asarray(x, np.uint64)
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_key(*parts: int) -> np.uint64:
    """One 64-bit key from whole numbers: seed, purpose, epoch."""
    state = np.uint64(0)
    for part in parts:
        state = splitmix64(state ^ splitmix64(np.uint64(part)))
    return state


def permute(index: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    """Where the permutation of 0 .. size-1 that belongs to `key` sends each index. int64 in, int64 out."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    with np.errstate(over="ignore"):
        round_keys = splitmix64(key + np.arange(ROUNDS, dtype=np.uint64))
    permuted = np.array(index, np.uint64, ndmin=1)
    walking = np.arange(permuted.size)  # those that are not below `size` yet: each goes on through the network
    while walking.size:
        sent = feistel(permuted.flat[walking], np.uint64(half_bits), round_keys)
        permuted.flat[walking] = sent
        walking = walking[sent >= np.uint64(size)]
    return permuted.astype(np.int64).reshape(np.shape(index))


def feistel(x: np.ndarray, half_bits: np.uint64, round_keys: np.ndarray) -> np.ndarray:
    """A keyed permutation of the whole numbers of 2 * half_bits bits. uint64 [n]."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = x >> half_bits, x & mask
    for key in round_keys:
        left, right = right, left ^ (splitmix64(right ^ key) & mask)
    return (left << half_bits) | right
