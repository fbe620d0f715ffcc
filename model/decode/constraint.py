"""Matchers: what follows a constraint on the host, a token at a time. generate.py asks one for its mask before each
draw.

launch/inference/matchers.py makes them, with a tokenizer, a library and an index that this package does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from model.decode.chain import Chain, SamplerError, format_chain
from model.decode.links.constraint import AllowedTokens, Constraint, Grammar
from model.decode.prompts import PromptError


class Matcher(Protocol):
    """Where one text stands in its constraint.

    `finished`: the text is complete, and nothing may follow it. Raises, in the way of its maker, where it fails.
    """

    finished: bool

    def mask(self) -> np.ndarray:
        """What may come next, uint32 [W]: bit t % 32 of word t // 32 is token t's. The ids that end a text are in it
        where the text may end."""
        ...

    def accept(self, token: int) -> None:
        """The text goes on with a token of the mask."""
        ...


# A constraint, the ids of a prompt and the ids that end a text -> the matcher of the text behind that prompt.
MatcherMaker = Callable[[Constraint, Sequence[int], Sequence[int]], Matcher]


def find_constraints(chain: Chain) -> list[Constraint]:
    """The constraints of a chain in order, at most one of them a grammar. Raises SamplerError where they can't be
    obeyed."""
    constraints = [link for link in chain.links if isinstance(link, Constraint)]
    grammars = [link for link in constraints if isinstance(link, Grammar)]
    if len(grammars) > 1:
        shown = " and ".join(format_chain(Chain((grammar,))) for grammar in grammars)
        raise SamplerError(f"sampler {format_chain(chain)!r}: a text has one grammar, and these are two: {shown}")
    if constraints and chain.strategy.rows != 1:
        strategy = format_chain(Chain((), chain.strategy))
        followed = "a grammar" if grammars else format_chain(Chain((constraints[0],)))
        raise SamplerError(
            f"sampler {format_chain(chain)!r}: {strategy} can't follow {followed}; draw or write greedy instead"
        )
    return constraints


def find_grammar(chain: Chain) -> Grammar | None:
    """The grammar of a chain, if it has one. Raises SamplerError where its constraints can't be obeyed."""
    return next((link for link in find_constraints(chain) if isinstance(link, Grammar)), None)


def new_matchers(
    maker: MatcherMaker | None, chain: Chain, prompt: Sequence[int], stop_ids: Sequence[int]
) -> list[Matcher]:
    """A matcher of each of the chain's constraints. Raises SamplerError, PromptError."""
    constraints = find_constraints(chain)
    if constraints and maker is None:
        shown = format_chain(Chain((constraints[0],)))
        needed = "a grammar needs a tokenizer" if isinstance(constraints[0], Grammar) else "it needs a training text"
        raise PromptError(f"{shown}: {needed}, and here is none")
    # A grammar may go on with a token that ends a text by its chain; no other constraint rules it out.
    ends = list(dict.fromkeys([*stop_ids, *chain.stop_tokens]))
    return [maker(link, prompt, stop_ids if isinstance(link, Grammar) else ends) for link in constraints]


def with_masks(chain: Chain, masks: Sequence[np.ndarray]) -> Chain:
    """The chain with masks in the place of its constraints, or of the masks that it has: uint32 [W], of a batch's chain
    [B, W]."""
    masked = iter(masks)
    links = (
        AllowedTokens(next(masked)) if isinstance(link, Constraint | AllowedTokens) else link for link in chain.links
    )
    return dataclasses.replace(chain, links=tuple(links))
