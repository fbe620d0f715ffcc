"""Texts that several rows write together: the best of them, found when all rows are finished. generate.py calls it."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from model.decode.chain import Chain, format_chain
from model.decode.completion import Completion, completion
from model.decode.sequence import SequenceState
from model.decode.trellis import Path, Trellis, join_draws


def rows_of_texts(rows: list[SequenceState]) -> list[list[SequenceState]]:
    """The rows of each text."""
    count = rows[0].chain.strategy.rows
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def trellis(rows: list[SequenceState]) -> Trellis:
    """What the rows of one text have drawn."""
    reasons = [row.finish_reason for row in rows]
    return Trellis(join_draws([row.draws for row in rows]), reasons, rows[0].limit - rows[0].prompt)


def reorder_ids(rows: list[SequenceState]) -> None:
    """Gives every row of a search the ids of the text that it goes on with."""
    for text in rows_of_texts(rows):
        drawn = trellis(text)
        for index, row in enumerate(text):
            path = Path(index, len(row.ids) - row.prompt, row.finish_reason)
            row.ids = [*row.ids[: row.prompt], *drawn.columns(path).token.tolist()]


def stream_ranked(pieces: Iterator[list[Completion]], rows: list[SequenceState], samples: int):
    """Yields nothing new of any text, as often as rows have new pieces, then each text's best samples."""
    texts = rows_of_texts(rows)
    for _ in pieces:
        yield [Completion() for _ in range(len(texts) * samples)]
    yield [completion for text in texts for completion in ranked(text, samples)]


def ranked(rows: list[SequenceState], samples: int) -> list[Completion]:
    """The best texts that finished rows of one text have written; empty ones where the chain leaves no more."""
    chain, drawn = rows[0].chain, trellis(rows)
    memories = [() if row.memories is None else row.memories[-1] for row in rows]
    paths = chain.strategy.rank(drawn, jax.tree.map(lambda *x: np.concatenate(x), *memories))[:samples]
    found = [completion(drawn.columns(path), chain) for path in paths]
    for path, text in zip(paths, found, strict=True):
        text.finish_reason = path.finish_reason
        text.emptied_by = rows[path.row].emptied_by if path.finish_reason == "emptied" else None
    emptied_by = rows[0].emptied_by or format_chain(Chain((), chain.strategy))
    missing = samples - len(found)
    return found + [Completion(finish_reason="emptied", emptied_by=emptied_by) for _ in range(missing)]
