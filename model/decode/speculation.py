"""Drafts of a text's next tokens, for a forward pass that checks them all at once (advance.py). engine.py asks for
them.

A drafter may guess as it likes: a wrong draft costs time and changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Drafter(Protocol):
    """What proposes the next tokens of texts."""

    def propose(self, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """At most `count` drafts of each text's next tokens; none where it has no guess."""
        ...


@dataclass(frozen=True)
class PromptLookup:
    """Drafts what followed the text's newest tokens when they last stood in it (Saxena 2023, "Prompt lookup decoding").

    It looks for the newest `longest` tokens, then for fewer, down to `shortest`. Free of any model, and right where a
    text repeats itself: code, quotations, lists, loops.
    """

    longest: int = 4
    shortest: int = 2

    def propose(self, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [self.draft(np.asarray(text), count) for text in texts]

    def draft(self, tokens_S: np.ndarray, count: int) -> list[int]:
        """The tokens after the newest earlier occurrence, over and over if it overlaps the text's end."""
        ends = np.flatnonzero(tokens_S[:-1] == tokens_S[-1])  # of earlier occurrences of the last token
        length = min(len(ends), 1)
        while len(ends) and length < self.longest:
            longer = ends[ends >= length]
            longer = (
                longer[tokens_S[longer - length] == tokens_S[-1 - length]] if length < len(tokens_S) else longer[:0]
            )
            if not len(longer):
                break
            ends, length = longer, length + 1
        if length < self.shortest:
            return []
        return np.resize(tokens_S[ends[-1] + 1 :], count).tolist()
