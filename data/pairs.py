"""Rows that score preference pairs, each once. train/dpo.py sums their losses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.documents import Documents
from data.packing import half_spans
from data.pipeline import fill_rows
from data.rows import Rows


def pair_rows(documents: Documents, length: int, batch_size: int) -> Iterator[Rows]:
    """Batches of `batch_size` rows, an even number: rows 2i and 2i + 1 are the chosen and the rejected half of a pair.

    Pairs come in order; the last batch is filled up with rows of weight 0.
    """
    for first in range(0, len(documents), batch_size // 2):
        numbers = np.arange(first, min(first + batch_size // 2, len(documents)))
        rows = Rows.empty(batch_size, length)
        spans = half_spans(documents, np.repeat(numbers, 2), np.tile([0, 1], len(numbers)))
        fill_rows(rows, np.arange(batch_size), documents, spans)
        yield rows
