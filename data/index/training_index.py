"""How much of a text is copied from the training text, and from where: all indexes of a run, asked together.

launch/inference/provenance.py opens the one of a run; `skald trace`, `skald quality` and the link max_copied_tokens ask
it. As Infini-gram (Liu et al. 2024) and OLMoTrace (Liu et al. 2025) it looks spans of tokens up in suffix arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.index.build import FORMAT, PART_TOKENS, open_index_folder
from data.index.part import Part
from data.splits import Split

Report = Callable[[str], None]


class Passage(NamedTuple):
    """A place in the training text: the token `place` of all tokens of a source's store."""

    source: int
    place: int


class CopiedSpan(NamedTuple):
    """Tokens `start` to `stop` of a text, which stand in the training text: in document `document` of the store of
    `source`, which begin at its token `offset`. `title` names the document for a person."""

    start: int
    stop: int
    source: str
    document: int
    offset: int
    title: str


class SourceIndex:
    """The index of one training split, and the split's store, which says where documents come from."""

    def __init__(self, split: Split, report: Report = lambda _: None, part_tokens: int = PART_TOKENS):
        self.name, self.store, self.documents = split.name, split.store, split.documents
        self.folder = open_index_folder(split, report, part_tokens)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
            self.parts = self.open_parts()
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
            raise DataError(f"{self.folder}: a damaged index ({error}); remove it, and it is made again") from None

    def open_parts(self) -> list[Part]:
        """The parts that the manifest names. Raises what reading them raises, ValueError where they do not belong
        together."""
        described = self.manifest["parts"]
        if self.manifest["format"] != FORMAT or self.manifest["tokens"] != sum(part["tokens"] for part in described):
            raise ValueError("manifest.json does not agree with itself")
        parts = [Part(self.folder, number) for number in range(len(described))]
        for part, sizes in zip(parts, described, strict=True):
            part.check(sizes)
        return parts

    def title(self, document: int) -> str:
        """The file of a document of the store, and its record, from 0, where the file has several."""
        origin, manifest = self.store.origin(document), self.store.manifest
        file = manifest["files"][origin.file] if len(manifest["files"]) > 1 else manifest["source_path"]
        return f"{file}, record {origin.record}" if manifest["records_by_file"][origin.file] > 1 else file


@dataclass(frozen=True)
class Copies:
    """What of a text stands in the training text.

    `lengths` int32 [T]: of the longest span that begins at each token and stands there, within one document; `found`
    int32 [T, 2]: at which entry of which part.
    """

    index: TrainingIndex
    lengths: np.ndarray
    found: np.ndarray

    def new_ngrams(self, n: int) -> float:
        """The share of the text's n-grams that are not in the training text (McCoy et al. 2023, RAVEN: novelty;
        Merrill et al. 2024). NaN for a text of fewer than n tokens."""
        count = len(self.lengths) - n + 1
        return float((self.lengths[:count] < n).mean()) if count > 0 else float("nan")

    @property
    def longest(self) -> CopiedSpan | None:
        """The first of the longest spans of the text that stand in the training text; None where no token does."""
        if not self.lengths.any():
            return None
        return self.span(int(self.lengths.argmax()))

    def span(self, start: int) -> CopiedSpan:
        """The longest span that begins at a token, and one place at which it stands."""
        passage = self.index.passage(self.found[start])
        source = self.index.sources[passage.source]
        offsets = source.documents.offsets
        document = int(np.searchsorted(offsets, passage.place, side="right")) - 1
        stop = start + int(self.lengths[start])
        return CopiedSpan(
            start, stop, source.name, document, passage.place - int(offsets[document]), source.title(document)
        )

    def spans(self, least: int) -> list[CopiedSpan]:
        """The spans of `least` tokens and more that stand in the training text, without those inside another one."""
        ends = np.arange(len(self.lengths)) + self.lengths
        reaches_further = ends > np.maximum.accumulate(np.concatenate([[0], ends[:-1]]))
        return [self.span(int(start)) for start in np.flatnonzero(reaches_further & (self.lengths >= least))]

    def covered(self, least: int) -> np.ndarray:
        """int32 [T]: of each token the length of the longest of these spans that it is in, 0 outside of them."""
        covered = np.zeros(len(self.lengths), np.int32)
        for span in sorted(self.spans(least), key=lambda span: span.stop - span.start):
            covered[span.start : span.stop] = span.stop - span.start
        return covered


class TrainingIndex:
    """The training text of a run, in an index for each of its sources."""

    def __init__(self, sources: Sequence[SourceIndex]):
        self.sources = list(sources)
        one_each = {source.folder: number for number, source in reversed(list(enumerate(self.sources)))}
        numbers = sorted(one_each.values())  # two sources may be of the same documents: these are asked once
        self.parts: list[tuple[int, Part]] = [
            (number, part) for number in numbers for part in self.sources[number].parts
        ]

    @property
    def tokens(self) -> int:
        """Tokens of training in it."""
        return sum(len(part.suffixes) for _, part in self.parts)

    def copies(self, tokens: Sequence[int]) -> Copies:
        """What of a text of ids stands in the training text."""
        return self.copies_of([tokens])[0]

    def copies_of(self, texts: Sequence[Sequence[int]]) -> list[Copies]:
        """What of each text stands in the training text: many short texts at once are much faster than one by one."""
        borders = np.cumsum([len(text) for text in texts], dtype=np.int64)
        total = int(borders[-1]) if len(texts) else 0
        lengths, found = np.zeros(total, np.int32), np.full((total, 2), -1, np.int32)
        for number, (_, part) in enumerate(self.parts):
            matches = part.matches(texts)
            longer = matches.lengths > lengths
            lengths[longer] = matches.lengths[longer]
            found[longer] = np.stack([np.full(longer.sum(), number), matches.entries[longer]], 1)
        split = zip(np.split(lengths, borders[:-1]), np.split(found, borders[:-1]), strict=True)
        return [Copies(self, *each) for each in split] if texts else []

    def count(self, tokens: Sequence[int]) -> int:
        """How often a span stands in the training text: exact up to build.OVERLAP tokens."""
        intervals = [part.interval(tokens) for _, part in self.parts]
        return sum(stop - start for start, stop in intervals)

    def times_seen(self, tokens: Sequence[int], epochs: dict[str, float]) -> float:
        """How often a span was read in training, if each source was read through so often: an expectation."""
        seen = 0.0
        for number, part in self.parts:
            same = [source.name for source in self.sources if source.folder == self.sources[number].folder]
            start, stop = part.interval(tokens)
            seen += (stop - start) * sum(epochs[name] for name in same)
        return seen

    def next_tokens(self, tokens: Sequence[int]) -> np.ndarray:
        """The ids that come behind a span somewhere in the training text, each once, int64 [n]."""
        found = [part.next_tokens(part.interval(tokens), len(tokens)) for _, part in self.parts]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))

    def passage(self, found: np.ndarray) -> Passage:
        """Where an entry of a part stands: int32 [2], as in Copies.found."""
        number, part = self.parts[int(found[0])]
        return Passage(number, part.document_place(int(found[1])))
