"""The ends of a sampler chain: what ends a text beside its limit. They change no logits and are part of no program.

generate.py ends texts at ids and at loops; launch/inference/text.py at texts. chain.py names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.decode.parameters import Number, parameter


@dataclass(frozen=True)
class Texts:
    """One text or a list of them. `expected` as in parameters.Parameter."""

    expected: str

    def read(self, value: Any) -> tuple[str, ...]:
        texts = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError
        return texts

    def write(self, value: tuple[str, ...]) -> Any:
        return value[0] if len(value) == 1 else list(value)


@dataclass(frozen=True)
class Ids:
    """One id or a list of them."""

    expected: str

    def read(self, value: Any) -> tuple[int, ...]:
        number = Number(self.expected, least=0, most=2**31 - 1, whole=True)
        ids = tuple(number.read(id_) for id_ in (value if isinstance(value, list | tuple) else [value]))
        if not ids:
            raise ValueError
        return ids

    def write(self, value: tuple[int, ...]) -> Any:
        return value[0] if len(value) == 1 else list(value)


class End:
    """An end of a chain. `texts` and `tokens`: those that end a text, before them; `detector`: a look-out for loops."""

    texts: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()

    def detector(self) -> LoopDetector | None:
        return None


@dataclass(frozen=True)
class Stop(End):
    """Ends a text before the first of some texts that it comes to hold, whichever tokens spell it."""

    texts: tuple = parameter(Texts('a text or several, as stop="END" or stop=["\\n\\n", "END"]'))


@dataclass(frozen=True)
class StopTokens(End):
    """Ends a text before any of some tokens, as before the end token. `min_length` holds these off, too."""

    tokens: tuple = parameter(Ids("an id or several, as stop_tokens=5 or stop_tokens=[5, 7]"))


@dataclass(frozen=True)
class MaxRepeats(End):
    """Ends a text that has fallen into a loop: whose newest tokens are the same piece, again and again.

    That is so at the first token with which some piece of at most `period` tokens stands `repeats` times in a row, the
    last time perhaps in part where that makes up the `tokens` that all of it must have at least. Only new tokens count:
    a prompt may repeat itself. The text keeps the loop; the result says at which new token it began.
    """

    repeats: int = parameter(
        Number("how often a piece stands in a row, from 2, as max_repeats=8", least=2, most=2**20, whole=True)
    )
    period: int = parameter(
        Number("the longest piece that is looked for, from 1 to 4096 tokens", least=1, most=4096, whole=True), 64
    )
    min_tokens: int = parameter(
        Number("the fewest tokens of a loop, from 2, as min_tokens=24", least=2, most=2**31 - 1, whole=True), 24
    )

    def detector(self) -> LoopDetector:
        return LoopDetector(self.repeats, self.period, self.min_tokens)


class LoopDetector:
    """Finds the first token at which a text loops, as MaxRepeats says. Its work for a token grows with the period."""

    def __init__(self, repeats: int, period: int, tokens: int):
        self.period_P = np.arange(1, period + 1)
        self.least_P = np.maximum(repeats * self.period_P, tokens) - self.period_P
        self.equal_P = np.zeros(period, np.int64)  # for how many tokens now each was the one a period before it
        self.newest_P = np.full(period, -1, np.int64)  # the tokens before the next, newest first
        self.count = 0

    def push(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """Adds new tokens up to the first at which the text loops; returns its index among these, and the index of the
        token at which the loop began among all; None where no token is such. Of several periods the least counts."""
        for index, token in enumerate(tokens):
            self.equal_P = np.where(self.newest_P == token, self.equal_P + 1, 0)
            self.newest_P[1:] = self.newest_P[:-1]
            self.newest_P[0] = token
            self.count += 1
            loops = np.flatnonzero(self.equal_P >= self.least_P)
            if len(loops):
                return index, int(self.count - self.equal_P[loops[0]] - self.period_P[loops[0]])
        return None
