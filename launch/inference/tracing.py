"""What of a text is copied from a run's training text, and from where: what `skald trace` shows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.index.training_index import CopiedSpan, SourceIndex, TrainingIndex
from data.tokenizers.streaming import IncrementalDecoder
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.checkpoint import DescribedCheckpoint
from launch.inference.provenance import (
    Novelty,
    Report,
    human_texts,
    novelty,
    open_training_index,
    training_splits,
    untraced,
)

AROUND = 24  # tokens that are shown on each side of a passage
MARKED_HUMAN = 0.01  # of human tokens, the share that may be marked where nobody says from which length on


class TracedSpan(NamedTuple):
    """A span of the text that stands in the training text, as CopiedSpan has it, and its `text`.

    `count`: how often it stands there. `document_tokens`: of the document in which one of these places is; `before` and
    `after`: the text around it there.
    """

    start: int
    stop: int
    text: str
    count: int
    source: str
    document: int
    title: str
    offset: int
    document_tokens: int
    before: str
    after: str

    @property
    def tokens(self) -> int:
        return self.stop - self.start


class Segment(NamedTuple):
    """A part of the text between the borders of spans. `length`: tokens of the longest span that it is in, 0 outside;
    `begins`: whether a span begins with it; `ends`: the number, from 1, of the span that ends with it, or None."""

    text: str
    length: int
    begins: bool
    ends: int | None


@dataclass(frozen=True)
class Trace:
    """A text, and what of it is copied. `pieces`: the text of each token; of a character of several tokens the last has
    it. `least`: the tokens of the shortest span in `spans`; `lengths` int32 [T]: of each token, the longest of these
    spans that it is in, 0 outside of them. `human`: the novelty of held-out texts, as long or, where documents are
    shorter, shorter, `human_length` the median of their tokens, `human_marked` the share of their tokens in such spans.
    `untraced`: which text of training was not looked up, a sentence; None where all was."""

    pieces: list[str]
    spans: list[TracedSpan]
    lengths: np.ndarray
    least: int
    novelty: Novelty
    human: Novelty
    human_length: int
    human_marked: float
    untraced: str | None

    @property
    def marked(self) -> float:
        """The share of tokens in spans."""
        return float((self.lengths > 0).mean())

    @property
    def segments(self) -> list[Segment]:
        """The text, in parts."""
        starts = {span.start for span in self.spans}
        ends = {span.stop: number for number, span in enumerate(self.spans, 1)}
        borders = sorted({0, len(self.pieces), *starts, *ends})
        return [
            Segment("".join(self.pieces[start:stop]), int(self.lengths[start]), start in starts, ends.get(stop))
            for start, stop in itertools.pairwise(borders)
        ]

    def to_json(self) -> dict:
        """What `skald trace --json` prints."""
        spans = [span._asdict() | {"tokens": span.tokens} for span in self.spans]
        longest = max(self.spans, key=lambda span: span.tokens)._asdict() if self.spans else None
        own = {"tokens": self.novelty.tokens, "new_ngrams": self.novelty.new_ngrams}
        own |= {"longest_tokens": self.novelty.longest[0], "longest": longest, "marked": self.marked}
        lengths = np.array(self.human.longest)
        human = {"texts": self.human.texts, "tokens": self.human.tokens, "median_tokens": self.human_length,
                 "new_ngrams": self.human.new_ngrams,
                 "longest_tokens": {"median": float(np.median(lengths)), "most": int(lengths.max())},
                 "marked": self.human_marked}  # fmt: skip
        return own | {"least": self.least, "spans": spans, "human": human, "untraced": self.untraced}


def trace(run: DescribedCheckpoint, tokens: np.ndarray, least: int | None, report: Report) -> Trace:
    """Looks a text of one token or more up in the training text of a run. `least`: the tokens of the shortest span that
    is marked; None: so many that of human text MARKED_HUMAN of the tokens are marked at most.

    Raises as open_training_index does.
    """
    index = open_training_index(run, report)
    copies = index.copies(tokens)
    texts = human_texts(training_splits(run), len(tokens))
    human = index.copies_of(texts)
    human_lengths = np.concatenate([copy.covered(1) for copy in human])
    least = least or least_span(human_lengths)
    spans = [traced_span(index, span, tokens, run.tokenizer) for span in copies.spans(least)]
    pieces = token_texts(run.tokenizer, tokens.tolist())
    marked = float((human_lengths >= least).mean())
    return Trace(
        pieces=pieces,
        spans=spans,
        lengths=copies.covered(least),
        least=least,
        novelty=novelty([copies]),
        human=novelty(human),
        human_length=int(np.median([len(text) for text in texts])),
        human_marked=marked,
        untraced=untraced(run),
    )


def least_span(lengths: np.ndarray) -> int:
    """The least length from which on MARKED_HUMAN of the tokens at most are in a span. int32 [T], of each token the
    longest that it is in."""
    return max(2, int(np.quantile(lengths, 1 - MARKED_HUMAN, method="inverted_cdf")) + 1)


def traced_span(index: TrainingIndex, span: CopiedSpan, tokens: np.ndarray, tokenizer: Tokenizer) -> TracedSpan:
    """A span with its text and what stands around it in the training text."""
    source = next(source for source in index.sources if source.name == span.source)
    documents, length = source.documents, span.stop - span.start
    first, last = (int(offset) for offset in documents.offsets[span.document : span.document + 2])
    start = first + span.offset
    begin, end = max(first, documents.first, start - AROUND), min(last, documents.stop, start + length + AROUND)
    before, text, after = decode_parts(source, tokenizer, [begin, start, start + length, end])
    count = index.count(tokens[span.start : span.stop].tolist())
    place = (span.source, span.document, span.title, span.offset, last - first)
    return TracedSpan(span.start, span.stop, text, count, *place, before, after)


def decode_parts(source: SourceIndex, tokenizer: Tokenizer, borders: list[int]) -> list[str]:
    """The text between each two of some borders in a document, decoded behind what stands before it."""
    ids = np.asarray(source.documents.tokens[borders[0] : borders[-1]]).tolist()
    texts = [tokenizer.decode(ids[: border - borders[0]]) for border in borders]
    return [texts[number + 1][len(texts[number]) :] for number in range(len(borders) - 1)]


def token_texts(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """The text of each token; joined they are the text of all."""
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push([token]) for token in tokens]
    pieces[-1] += decoder.flush()
    return pieces
