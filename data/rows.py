"""The batches that a model reads: rows of tokens. data/pipeline.py and data/windows.py cut them, train/ reads them."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """A batch of token rows, every field [rows, length] (B T).

    Each position predicts its target from the tokens of its own document up to and including itself: positions see
    each other only where `segments` agree. `weights` is 0 where a target does not count: in padding, and where the
    next token begins another document without ending this one.
    """

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32
    segments: np.ndarray  # int32: 1, 2, … by document in the row, 0 for padding
    positions: np.ndarray  # int32: index in the row's piece of the document, from 0
    weights: np.ndarray  # float32


class ScoredRows(NamedTuple):
    """Rows to score. `text` [rows, length] is 1 where a target counts and stands for text, 0 for end tokens, too."""

    rows: Rows
    text: np.ndarray  # float32
