"""The batches that a model reads: rows of tokens. data/pipeline.py and data/windows.py cut them, train/ reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """A batch of token rows, every field [rows, length] (B T).

    Each position predicts its target from the tokens of its own document up to and including itself: positions see
    each other only where `segments` agree. `weights` is 0 where a target does not count: in padding and
    in prompts.
    """

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32
    segments: np.ndarray  # int32: 1, 2, … by document in the row, 0 for padding
    positions: np.ndarray  # int32: index in the row's part of the document, from 0
    weights: np.ndarray  # float32

    @classmethod
    def empty(cls, count: int, length: int) -> Rows:
        """Arrays for rows, whose content is whatever was in memory there.

        They share one block of memory: the system gives a large one several times as fast as five small ones.
        """
        block = np.empty((len(cls._fields), count, length), np.int32)
        return cls(*block[:-1], block[-1].view(np.float32))


class ScoredRows(NamedTuple):
    """Rows to score. `text` [rows, length] is 1 where a target counts and stands for text, 0 for end tokens, too."""

    rows: Rows
    text: np.ndarray  # float32
