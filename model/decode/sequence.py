"""A text while it is written, as the host knows it: its ids, what it still has to write, and how it ended.

generate.py and scheduler.py hold one for each row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from model.decode.chain import Chain, stack_chains
from model.decode.completion import Completion, completion
from model.decode.constraint import Matcher, with_masks
from model.decode.draw import Drawn, Requests
from model.decode.ends import LoopDetector
from model.decode.parameters import power_of_two
from model.decode.trellis import FinishReason


@dataclass
class SequenceState:
    """A sequence while it is generated: its ids, prompt first, and whether it is finished."""

    ids: list[int]
    chain: Chain
    seed: int
    sample: int
    prompt: int  # number of ids of the prompt
    limit: int  # number of ids at which it is complete
    finish_reason: FinishReason | None = None
    memories: Any = None  # of its chain, once it was decoded
    matchers: Sequence[Matcher] = ()  # of its chain's constraints, in order
    detectors: list[LoopDetector] = field(init=False)  # of its chain's ends
    draws: list[Drawn] = field(default_factory=list)  # of each dispatch [steps], where `rank` needs them;
    # with the one at the end that drew no token, if one ended it
    emptied_by: str | None = None

    def __post_init__(self):
        self.detectors = [detector for end in self.chain.ends if (detector := end.detector())]

    @property
    def last_step(self) -> int:
        """The number of ids at which it is complete as its strategy counts them, which may have to read the last."""
        return self.limit + self.chain.strategy.compares

    def windows(self, contexts: Sequence[int]) -> list[list[int]]:
        """The ids that each branch of the source reads before the next token, of its own text."""
        texts = self.chain.source.texts(self.ids, self.prompt)
        return [text[window_start(len(text), context) :] for text, context in zip(texts, contexts, strict=True)]

    def add(self, draws: Drawn, finished: bool, window_limit: int) -> Completion:
        """Adds what a dispatch drew, arrays [C], cut where the text loops; decides whether the text ends with it."""
        piece = completion(draws, self.chain)
        loops = [found for detector in self.detectors if (found := detector.push(piece.tokens))]
        if loops:
            last, piece.repetition_start = min(loops)
            piece.cut(last + 1)
            piece.emptied_by = None
        self.ids += piece.tokens
        for token, matcher in itertools.product(piece.tokens, self.matchers):
            matcher.accept(token)
        if loops:
            self.finish_reason = "repetition"
        elif piece.emptied_by:
            self.finish_reason = "emptied"
        elif any(matcher.finished for matcher in self.matchers):
            self.finish_reason = "stop"
        elif finished and len(self.ids) == self.limit and window_limit >= self.last_step:
            self.finish_reason = "length"
        elif finished and len(self.ids) < window_limit:
            self.finish_reason = "stop"
        piece.finish_reason, self.emptied_by = self.finish_reason, piece.emptied_by
        if not self.chain.strategy.streams:
            count = len(piece.tokens) + (self.finish_reason in ("stop", "emptied", "length"))
            self.draws.append(jax.tree.map(lambda x: x[:count], draws))
        return piece

    def masks(self) -> list[np.ndarray]:
        """What each of its constraints allows next, uint32 [W]; nothing where it is finished."""
        return [matcher.mask() & np.uint32(0 if self.finish_reason else 2**32 - 1) for matcher in self.matchers]


def window_start(length: int, context: int) -> int:
    """The first token of a text that a model still sees: a text that fills the context goes on from its newest half."""
    step = context - context // 2
    return 0 if length < context else step * ((length - context) // step + 1)


def stack_requests(rows: Sequence[SequenceState], limit_B: np.ndarray, stop_ids: Sequence[Sequence[int]]) -> Requests:
    """The requests of some texts as arrays with a row for each entry of `limit_B`: rows beyond the texts are to waste.

    `stop_ids`: of each text, beside those of its chain.
    """
    size = len(limit_B)
    stops = [list(dict.fromkeys([*own, *row.chain.stop_tokens])) for own, row in zip(stop_ids, rows, strict=True)]
    seed_BW, sample_B = np.zeros((size, 2), np.uint32), np.zeros(size, np.int32)
    text_limit_B = np.ones(size, np.int32)
    stop_BE = np.full((size, power_of_two(max(4, *map(len, stops)))), -1, np.int32)
    for index, row in enumerate(rows):
        seed_BW[index], sample_B[index] = divmod(row.seed % 2**64, 2**32), row.sample
        text_limit_B[index] = row.limit
        stop_BE[index, : len(stops[index])] = stops[index]
    chains = [with_masks(row.chain, row.masks()) for row in rows]
    chain = stack_chains([*chains, *[chains[0]] * (size - len(rows))])
    return Requests(seed_BW, sample_B, limit_B, text_limit_B, stop_BE, chain)
