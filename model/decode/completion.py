"""What the decoder gives its callers: the tokens of a text, their probabilities, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from model.decode.chain import Chain, format_chain
from model.decode.draw import Drawn
from model.decode.trellis import FinishReason


@dataclass
class Completion:
    """The new tokens of one row: all (`generate`), or those since the last time (`stream`). They include no stop id.

    The lists beside `tokens` are those of draw.Drawn. `emptied_by`: the link that left no token to draw, if one did.
    `repetition_start`: the index among the new tokens at which the loop began that ended the row, if one did.
    `drafted`, `accepted`: drafts of these tokens, and how many of them were drawn indeed (speculation.py).
    """

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    chain_log_probabilities: list[float] = field(default_factory=list)
    choice_log_probabilities: list[float] = field(default_factory=list)
    truncated: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None  # None: not finished
    emptied_by: str | None = None
    repetition_start: int | None = None
    drafted: int = 0
    accepted: int = 0

    def extend(self, piece: Completion) -> None:
        """Adds the tokens of a later piece of the same row."""
        for name in (f.name for f in fields(self)):
            old, new = getattr(self, name), getattr(piece, name)
            adds = isinstance(new, list) or name in ("drafted", "accepted")
            setattr(self, name, old + new if adds else old if new is None else new)

    def cut(self, count: int) -> None:
        """Keeps the first `count` tokens."""
        for value in (getattr(self, f.name) for f in fields(self)):
            if isinstance(value, list):
                del value[count:]


def completion(draws: Drawn, chain: Chain) -> Completion:
    """What one row drew in a dispatch, whose arrays are [C]."""
    count = int((draws.token >= 0).sum())
    emptied = int(draws.emptied.max(initial=-1))
    columns = (draws.token, draws.log_probability, draws.chain_log_probability, draws.choice_log_probability)
    return Completion(
        *(column[:count].tolist() for column in (*columns, draws.truncated)),
        emptied_by=format_chain(Chain(chain.links[emptied : emptied + 1])) if emptied >= 0 else None,
    )
