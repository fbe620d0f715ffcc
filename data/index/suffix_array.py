"""Suffix arrays of token ids, by libdivsufsort. data/index/build.py makes one for each part of an index."""

from __future__ import annotations

import numpy as np

BORDER = 0  # ends every document in an index's text; a token t stands there as t + 1
CHUNK = 1 << 22  # entries looked at at a time


def suffix_array(text: np.ndarray, owned: int) -> np.ndarray:
    """The places below `owned` of a text, but for its borders, in the order of the suffixes that begin there.

    uint16 or uint32 [n] -> int32 [places], for an n of fewer than 2^31 bytes. The order is by whole tokens, a suffix
    before all that it begins (Manber & Myers 1993). libdivsufsort (Mori; Fischer & Kurpicz 2017) sorts bytes, so
    tokens are given to it with the greatest byte first, and only suffixes that begin with a token are kept. At most
    16 bytes of memory a token of 2 bytes, 28 of 4.

    pydivsufsort itself does the same for arrays of two bytes in 22.
    """
    import pydivsufsort  # 13 ms, and only who builds an index needs it

    size = text.dtype.itemsize
    byte_suffixes = pydivsufsort.divsufsort(text.astype(text.dtype.newbyteorder(">")).view(np.uint8))
    places, count = np.empty(owned, np.int32), 0
    for start in range(0, len(byte_suffixes), CHUNK):
        chunk = byte_suffixes[start : start + CHUNK]
        chunk = chunk[chunk % size == 0] // size
        chunk = chunk[chunk < owned]
        places[count : count + len(chunk)] = chunk
        count += len(chunk)
    borders = int(np.count_nonzero(text[:owned] == BORDER))  # the least of all tokens: they come first
    return places[borders:count]
