"""What the rows of one text drew, step by step, and the paths through it that are texts. Strategies that write a text
with several rows rank the paths, generate.py turns them into completions. All of it is NumPy, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

FinishReason = Literal["stop", "length", "emptied", "repetition", "cancelled"]


class Path(NamedTuple):
    """A text of a trellis: it ends in a row after so many tokens."""

    row: int
    tokens: int
    finish_reason: FinishReason


class Trellis(NamedTuple):
    """The draws of R rows in n steps: `drawn`, a draw.Drawn of arrays [R, n], its tokens -1 where a row drew none.

    `finish_reasons`: of each row. `limit`: new tokens at which a text is complete.
    """

    drawn: Any
    finish_reasons: Sequence[FinishReason]
    limit: int

    def columns(self, path: Path) -> Any:
        """The draws of a path's tokens [tokens], found backwards: each row continued that which its `parent` names."""
        row_T, row = np.full(path.tokens, path.row), path.row
        if self.drawn.parent is not None:
            for step in reversed(range(path.tokens)):
                row_T[step] = row
                row = self.drawn.parent[row, step]
        return jax.tree.map(lambda x: x[row_T, np.arange(path.tokens)], self.drawn)


def join_draws(rows: Sequence[Sequence[Any]]) -> Any:
    """The draws of rows, each a list of draw.Drawn of arrays [steps], as one of arrays [R, n]; short rows get -1."""
    joined = [jax.tree.map(lambda *x: np.concatenate(x), *pieces) for pieces in rows]
    steps = max(len(row.token) for row in joined)
    padded = [jax.tree.map(lambda x: np.pad(x, (0, steps - len(x)), constant_values=-1), row) for row in joined]
    return jax.tree.map(lambda *x: np.stack(x), *padded)
