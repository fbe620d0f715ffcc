"""Where text comes from: the index of a run's training text, what it says of a text, and of human text beside it.

`skald trace`, `skald quality` and the link max_copied_tokens open it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import Source
from data.documents import Documents
from data.errors import DataError
from data.index.build import chunks_of_spans
from data.index.training_index import Copies, SourceIndex, TrainingIndex
from data.pipeline import pipeline_of
from data.sources import source as sources
from data.splits import Splits, splits_of, validation_sources
from data.store.store import Store, find_store, open_store
from launch.inference.checkpoint import DescribedCheckpoint
from launch.machine.detection import cache_folder
from train.fields import ConfigError

Report = Callable[[str], None]

LONGEST_NGRAM = 16  # for which the share of new n-grams is said
HUMAN_TOKENS, HUMAN_TEXTS = 100_000, 200  # of held-out text that is looked up, at most


class Novelty(NamedTuple):
    """How much of some texts is new.

    `new_ngrams`: for n from 1 to LONGEST_NGRAM the share of their n-grams that are not in the training text, None where
    no text has one. `longest`: of each text, the tokens of its longest copied span.
    """

    texts: int
    tokens: int
    new_ngrams: list[float | None]
    longest: list[int]


def open_training_index(run: DescribedCheckpoint, report: Report = lambda _: None) -> TrainingIndex:
    """The index of all training splits of a run, which is built where the cache lacks it.

    Raises ConfigError for an imported checkpoint, DataError where a text is not that of training any more.
    """
    return TrainingIndex([SourceIndex(split, report) for split in training_splits(run, report).training])


def untraced(run: DescribedCheckpoint) -> str | None:
    """Which text that a run's weights were trained on its index does not hold, a sentence; None where it holds all."""
    if run.config is None:
        return f"The index does not hold what {run.name} was trained on: it was imported"
    if base := run.metadata.get("started_from"):
        folder, step = Path(base).parents[1], Path(base).name
        return f"The index does not hold the text that {folder} was trained on, from whose step {step} the run started"
    return None


def index_opener(run: DescribedCheckpoint) -> Callable[[], TrainingIndex]:
    """Opens the index of a run once it is needed, and once only: for the chains that it writes with."""
    return functools.cache(lambda: open_training_index(run, say))


def training_splits(run: DescribedCheckpoint, report: Report = lambda _: None) -> Splits:
    """The splits that a run was trained and validated on. Raises as open_training_index does."""
    if run.config is None:
        raise ConfigError(f"{run.name} was imported: what it was trained on is not known here")
    config, fingerprints = run.config.data, run.metadata["data"]
    trained_on = [part.source for part in config.parts]
    stores, validation_stores = (
        [store_of(run, source, own, report) for source, own in zip(of_kind, fingerprints[kind], strict=True)]
        for kind, of_kind in (("training", trained_on), ("validation", validation_sources(config)))
    )
    return splits_of(config, stores, validation_stores, run.tokenizer, lambda _: None)


def training_epochs(run: DescribedCheckpoint, splits: Splits) -> dict[str, float]:
    """How often each source of a run had been read through at the checkpoint's step."""
    config = run.config
    pipeline = pipeline_of(config.data, splits, config.batch_size, config.seed, run.tokenizer)
    return pipeline.epochs(run.step)


def store_of(run: DescribedCheckpoint, source: Source, fingerprint: dict, report: Report) -> Store:
    """The store of a source that a run was trained with. Raises DataError where its text is another one by now."""
    if store := find_store(cache_folder(), fingerprint):
        return store
    if sources.fingerprint(source) != fingerprint["source"]:
        raise DataError(f"{source.path}: not the text that {run.name} was trained with; put that text back")
    return open_store(source, run.tokenizer, cache_folder(), report)


def novelty(copies: Sequence[Copies]) -> Novelty:
    """The novelty of some texts, of whose n-grams each counts the same."""
    shares = []
    for n in range(1, LONGEST_NGRAM + 1):
        ngrams = [copy.lengths[: max(len(copy.lengths) - n + 1, 0)] for copy in copies]
        count = sum(map(len, ngrams))
        shares.append(sum(int((lengths < n).sum()) for lengths in ngrams) / count if count else None)
    longest = [int(copy.lengths.max(initial=0)) for copy in copies]
    return Novelty(len(copies), sum(len(copy.lengths) for copy in copies), shares, longest)


def human_texts(splits: Splits, tokens: int) -> list[np.ndarray]:
    """Pieces of so many tokens of the validation splits, spread over all of them: the yardstick of a text as long. Of a
    document that is shorter, all; end tokens are left out."""
    pieces = [HumanPieces(split.documents, tokens) for split in splits.validation]
    borders = np.cumsum([0, *(each.count for each in pieces)])
    total = int(borders[-1])
    count = min(total, HUMAN_TEXTS, max(1, HUMAN_TOKENS // tokens))
    chosen = [number * total // count for number in range(count)]
    splits_of_chosen = np.searchsorted(borders, chosen, side="right") - 1
    return [pieces[split][number - int(borders[split])] for split, number in zip(splits_of_chosen, chosen, strict=True)]


class HumanPieces:
    """Documents cut into pieces of so many tokens, without end tokens and without rests; a document that is shorter is
    one piece. What is in memory are the borders of documents, 24 bytes each."""

    def __init__(self, documents: Documents, tokens: int):
        chunks = list(chunks_of_spans(documents)) or [(np.zeros(0, np.int64),) * 2]
        starts, stops = (np.concatenate(each) for each in zip(*chunks, strict=True))
        self.documents, self.tokens, self.starts, self.stops = documents, tokens, starts, stops - documents.ended
        lengths = self.stops - starts
        self.ends = np.cumsum(np.where(lengths > 0, np.maximum(lengths // tokens, 1), 0))

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> np.ndarray:
        """The piece of this number, from 0."""
        document = int(np.searchsorted(self.ends, number, side="right"))
        before = int(self.ends[document - 1]) if document else 0
        start = int(self.starts[document]) + (number - before) * self.tokens
        return np.asarray(self.documents.tokens[start : min(start + self.tokens, int(self.stops[document]))])


def say(line: str) -> None:
    print(line, file=sys.stderr)
