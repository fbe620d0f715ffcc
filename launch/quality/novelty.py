"""How much of each text and of each setting's texts is new, and the longest spans copied from the training text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data.index.training_index import Copies
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.provenance import LONGEST_NGRAM
from launch.quality.model_passes import WrittenText
from train.quality.estimate import Estimate, ratio


def new_ngrams(copies: Sequence[Copies], n: int) -> Estimate:
    """The share of all n-grams of the texts that stand nowhere in the training text."""
    counts = np.array([max(0, len(own.lengths) - n + 1) for own in copies])
    new = [(own.lengths[:count] < n).sum() for own, count in zip(copies, counts, strict=True)]
    return ratio(np.array(new), counts)


def novelty(tokenizer: Tokenizer, texts: Sequence[WrittenText], copies: Sequence[Copies]) -> dict:
    """What quality.json says of the novelty of a setting's texts, of which `copies` stand in training."""
    shares = shares_of(lambda n: new_ngrams(copies, n).value)
    return {"new_ngrams": shares, "longest": longest_span(tokenizer, texts, copies)}


def shares_of(share: Callable[[int], float]) -> list[float | None]:
    """A share of new n-grams for n from 1 to LONGEST_NGRAM; None where it is nan, as no text is so long."""
    shares = map(share, range(1, LONGEST_NGRAM + 1))
    return [None if np.isnan(share) else share for share in shares]


def novelty_lines(
    tokenizer: Tokenizer, setting: str, texts: Sequence[WrittenText], copies: Sequence[Copies]
) -> Iterator[str]:
    """A JSON line for each text of a setting: `setting`, `index` of its prompt, `new_ngrams` as of the whole setting,
    and its own `longest` copied span."""
    for text, own in zip(texts, copies, strict=True):
        found = {"new_ngrams": shares_of(own.new_ngrams), "longest": longest_span(tokenizer, [text], [own])}
        yield json.dumps({"setting": setting, "index": text.index, **found}, ensure_ascii=False) + "\n"


def longest_span(tokenizer: Tokenizer, texts: Sequence[WrittenText], copies: Sequence[Copies]) -> dict | None:
    """The first of the longest copied spans of all texts, what it says, and where it stands; None where none does."""
    number = max(range(len(copies)), key=lambda i: int(copies[i].lengths.max(initial=0)))
    span = copies[number].longest
    if span is None:
        return None
    ids = list(texts[number].text.tokens[span.start : span.stop])
    place = {"source": span.source, "document": span.document, "title": span.title}
    return {"tokens": span.stop - span.start, "text": tokenizer.decode(ids), **place}
