"""What a model reads: rows of tokens. Made by data/pipeline.py and data/windows.py, read by train/."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Token rows, every field [rows, length] (B T).

    A position predicts `targets` from the tokens of its own document up to and including itself: positions see
    each other only where `segments` agree. `weights` is 0 where a target does not count (padding, and where the next
    token begins another document without ending this one).
    """

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32
    segments: np.ndarray  # int32: 1, 2, … by document in the row, 0 for padding
    positions: np.ndarray  # int32: place in the document's piece, from 0
    weights: np.ndarray  # float32


class ScoredRows(NamedTuple):
    """Rows to score, and which of their targets stand for text: `text` [rows, length] is 0 for end tokens, too."""

    rows: Rows
    text: np.ndarray  # float32
