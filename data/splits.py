"""Splits: which documents of a store belong to training and which to validation. data/pipeline.py opens them."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.config import Data, Part, Source, Span, split_spans
from data.documents import CHUNK, Documents
from data.errors import DataError, FieldError
from data.plans import SavedPlans
from data.sources import source as sources
from data.store.store import Store, open_store
from data.tokenizers.tokenizer import Tokenizer
from data.windows import ScoredText, check_targets

Report = Callable[[str], None]

CHARACTER_TOKENS = 8  # a character is fewer tokens than these, under any tokenizer


class Split(NamedTuple):
    """Some documents of a store. `plans` keeps what is made of them; `name` stands in metrics.

    `duplicates`: how many documents of a training split are in validation, too, whether they are left out or not.
    """

    name: str
    store: Store
    documents: Documents
    plans: SavedPlans
    duplicates: int = 0

    @property
    def is_by_hash(self) -> bool:
        return self.documents.last is None

    def hashes(self) -> np.ndarray:
        """uint64 [n]: of the documents that are whole, their content's hash."""
        of_wholes = [self.store.hashes[self.documents.in_store(n)[whole]] for n, whole in self.wholes()]
        return np.concatenate([np.zeros(0, np.uint64), *of_wholes])

    def wholes(self):
        """(numbers, whether each is whole) of all documents, a bounded part at a time."""
        for numbers in self.documents.chunks():
            stored, bounds = self.documents.in_store(numbers), self.documents.bounds(numbers)
            lengths = self.documents.offsets[stored + 1] - self.documents.offsets[stored]
            yield numbers, bounds.stops - bounds.starts == lengths


class Splits(NamedTuple):
    training: list[Split]
    validation: list[Split]


def open_splits(config: Data, tokenizer: Tokenizer, cache: Path, report: Report) -> Splits:
    """The training split of each source of a config, and its validation splits: one a source, or the one of its own.

    Raises DataError where a file is in both, FieldError for two sources of one name.
    """
    part_names(config.parts)  # raises before anything is read
    other = other_source(config)
    if other:
        for part in config.parts:
            check_disjoint(part.source, other, tokenizer.reads_ids)
    stores = [open_store(part.source, tokenizer, cache, report) for part in config.parts]
    other_stores = [open_store(other, tokenizer, cache, report)] if other else stores
    return splits_of(config, stores, other_stores, tokenizer, report)


def splits_of(
    config: Data, stores: Sequence[Store], validation_stores: Sequence[Store], tokenizer: Tokenizer, report: Report
) -> Splits:
    """The splits of stores: one of each source, and those of `validation_sources`. Raises FieldError as open_splits."""
    training = [
        split_store(store, config, "train", tokenizer, report)._replace(name=name)
        for name, store in zip(part_names(config.parts), stores, strict=True)
    ]
    other = other_source(config)
    validation = validation_splits(config, validation_stores, tokenizer, report if other else lambda _: None)
    if other or not all(split.is_by_hash for split in [*training, *validation]):  # by hash, a text is on one side
        training = [without_duplicates(split, validation, config, report) for split in training]
    return Splits(training, validation)


def other_source(config: Data) -> Source | None:
    """The source that validation has of its own; None where it is a part of the training sources."""
    return None if config.validation_source in (None, config.source) else config.validation_source


def validation_sources(config: Data) -> list[Source]:
    """The sources that hold the texts of validation."""
    other = other_source(config)
    return [other] if other else [part.source for part in config.parts]


def validation_splits(
    config: Data, stores: Sequence[Store], tokenizer: Tokenizer, report: Report = lambda _: None
) -> list[Split]:
    """The validation splits of the stores of `validation_sources`."""
    names = ["validation"] if other_source(config) else part_names(config.parts)
    return [
        split_store(store, config, "validation", tokenizer, report)._replace(name=name)
        for name, store in zip(names, stores, strict=True)
    ]


def scored_text(split: Split, tokenizer: Tokenizer) -> ScoredText:
    """A split to score: of preference pairs the chosen halves. Raises DataError where it has no target that stands for
    text."""
    documents = split.documents if split.documents.halves is None else replace(split.documents, half=0)
    text = ScoredText(split.name, documents, text_bytes(documents, tokenizer))
    check_targets(text, f"{split.store.manifest['source_path']}, data.validation")
    return text


def part_names(parts: Sequence[Part]) -> list[str]:
    """The name of each part: its own, or the last part of its path. Raises FieldError for one that comes twice."""
    names = [part.name or part.source.path.rstrip("/").rpartition("/")[2] for part in parts]
    name, count = collections.Counter(names).most_common(1)[0]
    if count > 1:
        raise FieldError(f"data.source.parts: {count} of them are named {name!r}; give each a name of its own")
    return names


def check_disjoint(source: Source, validation: Source, ids: bool) -> None:
    """Raises DataError where a file is read by both of two different sources, and from the same field."""
    if source.field != validation.field:
        return
    names = {os.path.realpath(file.name) for file in sources.open_source(source, ids)}
    if common := [file.name for file in sources.open_source(validation, ids) if os.path.realpath(file.name) in names]:
        remedy = f"move it out of {source.path}" if len(names) > 1 else "data.validation_source=null takes a part of it"
        raise DataError(f"{common[0]} is in data.source, too, and would be trained on; {remedy}")


def split_store(
    store: Store, config: Data, kind: Literal["train", "validation"], tokenizer: Tokenizer, report: Report
) -> Split:
    """One split of a store; by position where documents are too few to give each split of it some by hash."""
    spans = split_spans(config)._asdict()
    kinds = [kind] if other_source(config) else list(spans)
    if config.split == "hash" and len(store.documents) > 1:
        splits = {name: split_by_hash(store, spans[name]) for name in kinds}
        if all(split.documents.targets for split in splits.values()):
            return splits[kind]
        cut = "and one at a border is cut" if store.documents.halves is None else "between two pairs"
        report(
            f"{store.manifest['source_path']}: {len(store.documents)} documents are too few to be split by document; "
            f"they are split by position, {cut}"
        )
    return split_by_position(store, spans[kind], tokenizer)


def split_by_hash(store: Store, span: Span) -> Split:
    """The documents whose hash lies in the span: of all values of 64 bits, those from its start to its stop."""
    plans = store.plans.within("hash", span.start, span.stop)
    documents = store.documents
    low, high = (int(fraction * 2**64) for fraction in (span.start, span.stop))

    def index() -> np.ndarray:
        chosen = [n[(store.hashes[n] >= low) & (store.hashes[n] <= high - 1)] for n in documents.chunks()]
        return compact(np.concatenate(chosen), len(documents))

    if (span.start, span.stop) != (0.0, 1.0):
        documents = replace(documents, index=plans.array(["index"], index))
    return Split("", store, documents, plans)


def compact(numbers: np.ndarray, count: int) -> np.ndarray:
    """Numbers below `count` in 4 bytes where they fit."""
    return numbers.astype(np.uint32 if count < 1 << 32 else np.int64)


def split_by_position(store: Store, span: Span, tokenizer: Tokenizer) -> Split:
    """The span of the store's tokens; a document at a border is cut there, between two characters. A preference pair is
    not: it lies behind the border."""
    total = int(store.documents.offsets[-1])
    border = whole_character if store.documents.halves is None else document_start
    first, last = (border(store.documents, int(total * f), tokenizer) for f in (span.start, span.stop))
    documents = replace(store.documents, first=first, last=last)
    return Split("", store, documents, store.plans.within("position", first, last))


def document_start(documents: Documents, place: int, tokenizer: Tokenizer) -> int:
    """Where the document that holds a place begins."""
    del tokenizer
    return int(documents.offsets[np.searchsorted(documents.offsets, place, side="right") - 1])


def whole_character(documents: Documents, place: int, tokenizer: Tokenizer) -> int:
    """The first place from `place` on at which no character is cut: one may be several tokens."""
    document = int(np.searchsorted(documents.offsets, place, side="right")) - 1
    if document >= len(documents.offsets) - 1 or place == documents.offsets[document]:
        return place
    start, stop = int(documents.offsets[document]), int(documents.offsets[document + 1])
    for candidate in range(place, min(place + CHARACTER_TOKENS, stop)):
        before = np.asarray(documents.tokens[max(start, candidate - CHARACTER_TOKENS) : candidate]).tolist()
        if not tokenizer.decode(before).endswith("\ufffd"):
            return candidate
    return stop if stop - place <= CHARACTER_TOKENS else place


def text_bytes(documents: Documents, tokenizer: Tokenizer) -> int:
    """Bytes of text that the targets of documents stand for."""
    return sum(int(document_bytes(documents, numbers, tokenizer).sum()) for numbers in documents.chunks())


def document_bytes(documents: Documents, numbers: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text that the targets of each of these documents stand for, int64 [n]; those of a cut document are
    decoded to count them."""
    stored, bounds = documents.in_store(numbers), documents.bounds(numbers)
    sizes = np.array(documents.sizes[stored], np.int64)
    lengths = documents.offsets[stored + 1] - documents.offsets[stored]
    for number in np.flatnonzero(bounds.stops - bounds.starts != lengths):
        start, stop, ended = (column[number].item() for column in bounds)
        sizes[number] = decoded_bytes(documents, start, stop - ended, tokenizer)
    return sizes


def decoded_bytes(documents: Documents, start: int, stop: int, tokenizer: Tokenizer) -> int:
    """Bytes of text that the tokens start + 1 .. stop stand for, as far as they count in the loss."""
    total = 0
    for begin, end in counted_runs(documents, start + 1, stop):
        if tokenizer.reads_ids:
            total += end - begin
            continue
        while begin < end:
            part_end = min(whole_character(documents, min(begin + CHUNK, end), tokenizer), end)
            total += part_bytes(documents, begin, part_end, tokenizer)
            begin = part_end
    return total


def counted_runs(documents: Documents, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of the tokens start .. stop that count in the loss; a piece is one at most."""
    borders = [start, stop]
    if documents.pieces is not None:
        first, last = np.searchsorted(documents.pieces.starts, [start + 1, stop])
        borders[1:1] = documents.pieces.starts[first:last].tolist()
    for begin, end in itertools.pairwise(borders):
        if begin < end and documents.counts(np.array([begin]))[0]:
            yield begin, end


def part_bytes(documents: Documents, begin: int, end: int, tokenizer: Tokenizer) -> int:
    """Bytes of text of the tokens begin .. end; a character of several tokens belongs to the last of them."""
    texts = documents.offsets if documents.pieces is None else documents.pieces.starts
    text_start = int(texts[np.searchsorted(texts, begin, side="right") - 1])
    first = max(text_start, begin - CHARACTER_TOKENS)  # some tokenizers drop a space in front, so some are read before
    ids = np.asarray(documents.tokens[first:end]).tolist()
    before = tokenizer.decode(ids[: begin - first]).rstrip("\ufffd")
    return len(tokenizer.decode(ids).encode("utf-8")) - len(before.encode("utf-8"))


def without_duplicates(split: Split, validation: Sequence[Split], config: Data, report: Report) -> Split:
    """The split without the documents that are in validation, too, or all of it: as the config says. Reports them."""
    names = [name for v in validation for name in (v.store.folder.name, *v.plans.context)]
    kept = split.plans.within("without", *names).array(["index"], lambda: documents_not_in(split, validation))
    doubled = len(split.documents) - len(kept)
    if not doubled:
        return split
    split = split._replace(duplicates=doubled)
    documents = f"{doubled} of {len(split.documents)} documents of {split.name}"
    if not config.drop_duplicates:
        report(f"{documents} are in validation, too, word for word; data.drop_duplicates=true leaves them out")
        return split
    report(f"{documents} are in validation, too, word for word; they are left out of training")
    return split._replace(documents=replace(split.documents, index=kept), plans=split.plans.within("without", *names))


def documents_not_in(split: Split, validation: Sequence[Split]) -> np.ndarray:
    """The store's numbers of the documents of a split that no validation split holds as well."""
    there = np.unique(np.concatenate([v.hashes() for v in validation]))
    kept = [np.zeros(0, np.int64)]
    for numbers, whole in split.wholes():
        stored = split.documents.in_store(numbers)
        kept.append(stored[~(whole & np.isin(split.store.hashes[stored], there))])
    return compact(np.concatenate(kept), len(split.store.documents))
