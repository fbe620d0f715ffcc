"""How much of each setting's texts is new, and the longest span that is copied from the training text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.index.training_index import Copies, TrainingIndex
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.provenance import LONGEST_NGRAM
from launch.quality.model_passes import WrittenText
from train.quality.estimate import Estimate, ratio


def new_ngrams(copies: Sequence[Copies], n: int) -> Estimate:
    """The share of all n-grams of the texts that stand nowhere in the training text."""
    counts = np.array([max(0, len(own.lengths) - n + 1) for own in copies])
    new = [(own.lengths[:count] < n).sum() for own, count in zip(copies, counts, strict=True)]
    return ratio(np.array(new), counts)


def novelty(index: TrainingIndex, tokenizer: Tokenizer, texts: Sequence[WrittenText]) -> tuple[dict, Estimate, int]:
    """What quality.json says of the novelty of a setting's texts; the share of new 8-grams; tokens of the longest
    span."""
    copies = index.copies_of([text.text.tokens for text in texts])
    shares = [new_ngrams(copies, n).value for n in range(1, LONGEST_NGRAM + 1)]
    longest = longest_span(tokenizer, texts, copies)
    shown = {"new_ngrams": [None if np.isnan(share) else share for share in shares], "longest": longest}
    return shown, new_ngrams(copies, 8), longest["tokens"] if longest else 0


def longest_span(tokenizer: Tokenizer, texts: Sequence[WrittenText], copies: Sequence[Copies]) -> dict | None:
    """The first of the longest copied spans of all texts, what it says, and where it stands; None where none does."""
    number = max(range(len(copies)), key=lambda i: int(copies[i].lengths.max(initial=0)))
    span = copies[number].longest
    if span is None:
        return None
    ids = list(texts[number].text.tokens[span.start : span.stop])
    place = {"source": span.source, "document": span.document, "title": span.title}
    return {"tokens": span.stop - span.start, "text": tokenizer.decode(ids), **place}
