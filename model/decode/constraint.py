"""Matchers: what follows a grammar on the host, a token at a time. generate.py asks one for its mask before each draw.

launch/inference/grammar.py makes them, with a tokenizer and a library that this package does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from model.decode.chain import Chain, SamplerError, format_chain
from model.decode.links.constraint import AllowedTokens, Grammar
from model.decode.prompts import PromptError


class Matcher(Protocol):
    """Where one text stands in its grammar.

    `finished`: the text is complete, and nothing may follow it. Raises, in the way of its maker, where it fails.
    """

    finished: bool

    def mask(self) -> np.ndarray:
        """What may come next, uint32 [W]: bit t % 32 of word t // 32 is token t's. The ids that end a text are in it
        where the text is complete."""
        ...

    def accept(self, token: int) -> None:
        """The text goes on with a token of the mask."""
        ...


# A grammar, the ids of a prompt and the ids that end a text -> the matcher of the text behind that prompt.
MatcherMaker = Callable[[Grammar, Sequence[int], Sequence[int]], Matcher]


def find_grammar(chain: Chain) -> Grammar | None:
    """The grammar of a chain, if it has one. Raises SamplerError where it can't be obeyed."""
    grammars = [link for link in chain.links if isinstance(link, Grammar)]
    if len(grammars) > 1:
        shown = " and ".join(format_chain(Chain((grammar,))) for grammar in grammars)
        raise SamplerError(f"sampler {format_chain(chain)!r}: a text has one grammar, and these are two: {shown}")
    if grammars and chain.strategy.rows != 1:
        strategy = format_chain(Chain((), chain.strategy))
        raise SamplerError(
            f"sampler {format_chain(chain)!r}: {strategy} can't follow a grammar; draw or write greedy instead"
        )
    return grammars[0] if grammars else None


def new_matcher(
    maker: MatcherMaker | None, chain: Chain, prompt: Sequence[int], stop_ids: Sequence[int]
) -> Matcher | None:
    """A matcher of the chain's grammar, if it has one. Raises SamplerError, PromptError."""
    grammar = find_grammar(chain)
    if grammar is None:
        return None
    if maker is None:
        raise PromptError(f"{format_chain(Chain((grammar,)))}: a grammar needs a tokenizer, and here is none")
    return maker(grammar, prompt, stop_ids)


def with_mask(chain: Chain, mask: np.ndarray) -> Chain:
    """The chain with the tokens of a mask in the place of its grammar. `mask`: uint32 [W]."""
    return dataclasses.replace(
        chain, links=tuple(AllowedTokens(mask) if isinstance(link, Grammar) else link for link in chain.links)
    )


def with_masks(chain: Chain, mask_BW: np.ndarray) -> Chain:
    """A batch's chain with other masks: uint32 [B, W]."""
    links = (AllowedTokens(mask_BW) if isinstance(link, AllowedTokens) else link for link in chain.links)
    return dataclasses.replace(chain, links=tuple(links))
