"""Prompts from held-out text, and how people went on: places drawn by a seed, none of which overlaps another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.documents import Documents
from data.errors import DataError
from data.tokenizers.tokenizer import Tokenizer
from data.windows import ScoredText


class Place(NamedTuple):
    """A prompt of held-out text, and the tokens behind it in the same document."""

    source: str
    document: int
    prompt: tuple[int, ...]
    human: tuple[int, ...]


class Slots(NamedTuple):
    """The parts of a text that places may take: `first` int64 [n] the token where each document's parts begin, `counts`
    int64 [n] how many it has, `numbers` int64 [n] the documents that have any."""

    first: np.ndarray
    counts: np.ndarray
    numbers: np.ndarray


def draw_places(
    texts: Sequence[ScoredText],
    tokenizer: Tokenizer,
    count: int,
    prompt_tokens: int,
    new_tokens: int,
    seed: int,
    spare: int = 0,
) -> list[Place]:
    """Draws so many places, in an order that depends on the seed alone: fewer of them are the first ones of more.
    Behind them come `spare` more, as far as there is room.

    A document is cut into parts of `prompt_tokens` + `new_tokens` tokens, one behind another, from a random one of its
    first tokens on; start and end tokens are in none. Raises DataError where the texts have fewer parts than `count`.
    """
    random, size = np.random.default_rng(seed), prompt_tokens + new_tokens
    slots = [find_slots(text.documents, tokenizer, size, random) for text in texts]
    before = np.cumsum([0, *(int(own.counts.sum()) for own in slots)])
    if before[-1] < count:
        raise DataError(
            f"{', '.join(text.name for text in texts)}: {count} prompts of {prompt_tokens} tokens with {new_tokens} "
            f"more behind them are wanted, and there is room for {before[-1]}; ask for fewer (--prompts), for shorter "
            "ones (--prompt-tokens, --new-tokens), or name another text (--text)"
        )
    places = []
    for number in random.permutation(before[-1])[: count + spare].tolist():
        index = int(np.searchsorted(before, number, side="right")) - 1
        document, tokens = read_slot(texts[index].documents, slots[index], number - before[index], size)
        begin = [tokenizer.start_id] * start_tokens(tokenizer)
        prompt, human = (*begin, *tokens[:prompt_tokens]), tuple(tokens[prompt_tokens:])
        places.append(Place(texts[index].name, document, prompt, human))
    return places


def start_tokens(tokenizer: Tokenizer) -> int:
    """How many tokens stand before those of a prompt: that which begins a text, if one does."""
    return int(tokenizer.start_prompts and tokenizer.start_id is not None)


def find_slots(documents: Documents, tokenizer: Tokenizer, size: int, random: np.random.Generator) -> Slots:
    parts = []
    for numbers in documents.chunks():
        starts, stops, ended = documents.bounds(numbers)
        stops, nonempty = stops - ended, stops > starts
        if tokenizer.start_id is not None:
            begins = documents.tokens[np.where(nonempty, starts, 0)] == tokenizer.start_id
            starts = starts + (nonempty & begins)
        counts, rest = np.divmod(np.maximum(stops - starts, 0), size)
        kept = counts > 0
        first = starts + random.integers(0, rest + 1)
        parts.append(Slots(first[kept], counts[kept], numbers[kept]))
    return Slots(*map(np.concatenate, zip(*parts, strict=True)))


def read_slot(documents: Documents, slots: Slots, number: int, size: int) -> tuple[int, list[int]]:
    """The document and the tokens of the part of a text with this number."""
    behind = np.cumsum(slots.counts)
    row = int(np.searchsorted(behind, number, side="right"))
    start = int(slots.first[row]) + (number - int(behind[row] - slots.counts[row])) * size
    return int(slots.numbers[row]), np.asarray(documents.tokens[start : start + size]).tolist()
