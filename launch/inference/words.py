"""The words of a sampler chain as ids of a tokenizer, which the model does not know.

launch/inference/text.py resolves the chain of every request; the chain that is printed and stored keeps its words.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from data.errors import DataError
from data.tokenizers.tokenizer import Tokenizer
from model.decode.chain import NAMES, Chain, SamplerError
from model.decode.parameters import Biases, Phrases, parameters

# What may stand in front of a word, and the word behind it: a text's beginning, a line break, a space.
PLACES = (("", ""), ("\n", ""), ("a", " "), ("0", " "))


class WordError(ValueError):
    """A word can't become ids. The message is a part of a line."""


def resolve(chain: Chain, tokenizer: Tokenizer) -> Chain:
    """The chain with ids in the place of its words.

    Raises SamplerError where the tokenizer does not know a character of a word, or has no such id.
    """
    links = tuple(resolve_part(chain, link, tokenizer) for link in chain.links)
    check_ids(chain, "stop_tokens", [(token,) for token in chain.stop_tokens], tokenizer)
    return dataclasses.replace(chain, links=links, strategy=resolve_part(chain, chain.strategy, tokenizer))


def resolve_part(chain: Chain, part: Any, tokenizer: Tokenizer) -> Any:
    """A link or a strategy with ids in the place of its words."""
    fields = {}
    for name, kind in parameters(type(part)).items():
        if type(kind) not in RESOLVERS:
            continue
        link = NAMES[type(part)]
        try:
            fields[name] = RESOLVERS[type(kind)](getattr(part, name), tokenizer)
        except WordError as error:
            raise SamplerError(f"sampler {str(chain)!r}: {link}: {error}") from None
        phrases = [ids for ids, _ in fields[name]] if isinstance(kind, Biases) else fields[name]
        check_ids(chain, link, phrases, tokenizer)
    return dataclasses.replace(part, **fields) if fields else part


def resolve_phrases(phrases: tuple, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each word as all of its spellings, but for those that end with another phrase, which says as much."""
    ids = [spelling for phrase in phrases for spelling in spellings(phrase, tokenizer)]
    shortest = [p for p in ids if not any(len(q) < len(p) and p[-len(q) :] == q for q in ids)]
    return tuple(dict.fromkeys(shortest))


def resolve_biases(biases: tuple, tokenizer: Tokenizer) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Each word as those of its spellings that are one token."""
    resolved = []
    for phrase, amount in biases:
        found = spellings(phrase, tokenizer)
        single = [ids for ids in found if len(ids) == 1] if isinstance(phrase, str) else found
        if not single:
            tokens = ", ".join(f"{tokenizer.decode([id_])!r} ({id_})" for id_ in found[0])
            raise WordError(
                f"{phrase!r} is no token: the tokenizer writes it as {tokens}; bias one of these by its id, or the "
                f"last behind the others with [{list(found[0])}, {amount:g}] in a list of pairs"
            )
        resolved += [(ids, amount) for ids in single]
    return tuple(resolved)


RESOLVERS = {Phrases: resolve_phrases, Biases: resolve_biases}


def spellings(phrase: str | tuple[int, ...], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The ids that a tokenizer makes of a word in each of PLACES, as far as they can be told from what stands in front.

    Raises WordError where it does not know a character of the word.
    """
    if not isinstance(phrase, str):
        return [phrase]
    if half := re.search("[\ud800-\udfff]", phrase):  # from bytes that are not UTF-8, or half a pair of JSON escapes
        raise WordError(f"{half[0]!r} in {phrase!r} is no character; write the text as UTF-8")
    found = []
    for before, space in PLACES:
        try:
            front, whole = tokenizer.encode(before), tokenizer.encode(before + space + phrase)
        except DataError as error:
            if not before:
                raise WordError(f"{phrase!r}: {error}") from None
            continue  # the tokenizer does not know what stands in front: no text holds the word there
        if len(whole) > len(front) and whole[: len(front)] == front:
            found.append(tuple(whole[len(front) :]))
    if not found:
        raise WordError(f"the tokenizer makes no token of {phrase!r}; leave it out")
    return list(dict.fromkeys(found))


def check_ids(chain: Chain, name: str, phrases: list[tuple[int, ...]], tokenizer: Tokenizer) -> None:
    """Raises SamplerError where a phrase holds an id that the tokenizer does not have."""
    outside = [id_ for ids in phrases for id_ in ids if id_ >= tokenizer.vocab_size]
    if outside:
        raise SamplerError(
            f"sampler {str(chain)!r}: {name} holds the id {outside[0]}; ids go from 0 to {tokenizer.vocab_size - 1}"
        )
