"""Makes the matchers of a chain's constraints: grammars (grammar.py), and how much may be copied from training.

launch/inference/text.py and text_engine.py give `Matchers` to the decoder (model/decode/constraint.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data.index.training_index import TrainingIndex
from launch.inference import grammar
from model.decode.chain import Chain, SamplerError
from model.decode.constraint import Matcher
from model.decode.links.constraint import Constraint, MaxCopiedTokens, pack
from train.fields import ConfigError

OpenIndex = Callable[[], TrainingIndex]


class CopyMatcher:
    """A matcher of model/decode/constraint.py: of `most` + 1 tokens that end a text, none stand in the index."""

    finished = False  # a text that copies little may always go on

    def __init__(
        self, index: TrainingIndex, most: int, prompt: Sequence[int], vocab_size: int, stop_ids: Sequence[int]
    ):
        self.index, self.most, self.newest = index, most, list(prompt)[-most:]
        self.vocab_size, self.stop_ids = vocab_size, [id_ for id_ in stop_ids if 0 <= id_ < vocab_size]
        self.everything = pack(np.ones(vocab_size, bool))
        self.next_mask = self.compute_mask()

    def compute_mask(self) -> np.ndarray:
        """All tokens, but for those that would go on with a copy."""
        copying = self.index.next_tokens(self.newest) if len(self.newest) == self.most else ()
        if not len(copying):
            return self.everything
        allowed_V = np.ones(self.vocab_size, bool)
        allowed_V[copying] = False
        allowed_V[self.stop_ids] = True
        return pack(allowed_V)

    def mask(self) -> np.ndarray:
        return self.next_mask

    def accept(self, token: int) -> None:
        self.newest = [*self.newest, token][-self.most :]
        self.next_mask = self.compute_mask()


class Matchers:
    """The maker of matchers for texts of a tokenizer. `open_index` opens the index of the run's training text; None:
    there is no run."""

    def __init__(self, tokenizer, open_index: OpenIndex | None = None):
        self.tokenizer, self.open_index = tokenizer, open_index

    def __call__(self, constraint: Constraint, prompt: Sequence[int], stop_ids: Sequence[int]) -> Matcher:
        """The matcher of a text behind a prompt. Raises SamplerError where a constraint can't be obeyed here, and
        DataError where the training text is another one by now."""
        self.check(Chain((constraint,)))
        if not isinstance(constraint, MaxCopiedTokens):
            return grammar.new_matcher(self.tokenizer, constraint, prompt, stop_ids)
        return CopyMatcher(self.index(), constraint.tokens, prompt, self.tokenizer.vocab_size, stop_ids)

    def check(self, chain: Chain) -> None:
        """Raises SamplerError where a chain has a constraint that can't be obeyed here."""
        grammar.check_grammar(self.tokenizer, chain)
        if self.open_index is None and any(isinstance(link, MaxCopiedTokens) for link in chain.links):
            raise SamplerError("max_copied_tokens: here is no index of a training text; write from a run's checkpoint")

    def index(self) -> TrainingIndex:
        """The index, opened. Raises SamplerError where there is none."""
        try:
            return self.open_index()
        except ConfigError as error:
            raise SamplerError(f"max_copied_tokens: {error}") from None
