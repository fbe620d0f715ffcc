"""The training data of a run: `rows(step, start, stop)` depends on config, data, seed and step alone.

launch/ opens a Pipeline, train/ asks it for the rows that its devices hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import Data, Mixture, Part
from data.documents import Documents
from data.errors import DataError, FieldError
from data.long_responses import fit_responses
from data.mixture import MixedSource, Mixing
from data.packing import Packing, Spans, expand, make_packing, padding_share
from data.rows import Rows
from data.splits import Splits, open_splits, scored_text
from data.store.store import Store
from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from data.windows import ScoredText
from data.without_response import count_without_response, explain_lack

Report = Callable[[str], None]

ORDER = 2  # of the rules by which rows are chosen: another number wherever the same config reads other rows
LONG_SPAN = 64  # tokens, from which on a span is copied by itself


class TrainingSource(NamedTuple):
    """One source of a run's rows: its store, the documents of its training split, and how they are packed."""

    name: str
    store: Store
    documents: Documents
    packing: Packing


class Pipeline:
    """The rows of every step's global batch, the texts to score, and the run's `tokenizer`."""

    def __init__(self, config: Data, tokenizer: Tokenizer, splits: Splits, packings: list[Packing], batch_size: int):
        self.tokenizer, self.splits, self.batch_size, self.length = tokenizer, splits, batch_size, config.length
        self.sources = [
            TrainingSource(split.name, split.store, split.documents, packing)
            for split, packing in zip(splits.training, packings, strict=True)
        ]
        self.validation: list[ScoredText] = [scored_text(split, tokenizer) for split in splits.validation]
        self.together = config.rows_together
        self.mixing = Mixing(*mixed(config, self.sources, batch_size))  # of rows, or of pairs of them

    @property
    def fingerprints(self) -> dict:
        """What the rows depend on besides the config: stored with checkpoints, compared on resuming."""
        named = self.splits._asdict().items()
        return {"order": ORDER} | {kind: [split.store.fingerprint for split in splits] for kind, splits in named}

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each source has been read through after so many steps."""
        return self.mixing.epochs(steps * self.batch_size // self.together)

    def check_steps(self, steps: int) -> None:
        """Raises FieldError where the sources of the mixture end before so many steps."""
        if steps * self.batch_size // self.together > self.mixing.end:
            raise FieldError(
                f"steps: the sources of the mixture have ended before step {steps}; let one of them repeat "
                f"(data.source.parts, at_end), or set steps={self.mixing.end * self.together // self.batch_size}"
            )

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Rows start .. stop of the global batch of `step` (from 0)."""
        rows = Rows.empty(stop - start, self.length)
        for source, places, read in self.spans(step, start, stop):
            fill_rows(rows, places, source.documents, read)
        return rows

    def spans(self, step: int, start: int, stop: int) -> list[tuple[TrainingSource, np.ndarray, Spans]]:
        """What rows start .. stop of a step's batch read: sources, the places of their rows, their spans."""
        rows = step * self.batch_size + np.arange(start, stop)
        which, numbers = self.mixing.locate(rows // self.together)
        numbers = numbers * self.together + rows % self.together
        places = [np.flatnonzero(which == index) for index in range(len(self.sources))]
        return [
            (source, place, source.packing.spans(numbers[place]))
            for source, place in zip(self.sources, places, strict=True)
            if len(place)
        ]


def fill_rows(rows: Rows, places: np.ndarray, documents: Documents, spans: Spans) -> None:
    """Fills the rows at `places` [n] with what `spans` read, and with padding; each span has its own segment."""
    lengths, length = spans.stops - spans.starts, rows.tokens.shape[1]
    used = np.bincount(spans.rows, lengths, len(places)).astype(np.int64)
    for row in np.flatnonzero(used < length):
        for array in rows:
            array[places[row], used[row] :] = 0
    ends = np.cumsum(lengths)
    first_span = np.searchsorted(spans.rows, spans.rows)  # of the row that each span is in
    columns = ends - lengths - (ends - lengths)[first_span]
    at = places[spans.rows] * length + columns
    segments = np.arange(len(lengths)) - first_span + 1
    is_long = lengths >= LONG_SPAN
    flat = Rows(*(array.reshape(-1) for array in rows))
    copy_spans(flat, documents, *(x[is_long].tolist() for x in (at, spans.starts, spans.stops, segments)))
    gather_spans(flat, documents, *(x[~is_long] for x in (at, spans.starts, spans.stops, segments)))


def copy_spans(flat: Rows, documents: Documents, at: list[int], starts: list, stops: list, segments: list) -> None:
    """Writes spans, one after another, to the places `at` of flat rows."""
    if not at:
        return
    numbers = np.arange(max(stop - start for start, stop in zip(starts, stops, strict=True)), dtype=np.int32)
    for place, start, stop, segment in zip(at, starts, stops, segments, strict=True):
        part = slice(place, place + stop - start)
        read = documents.tokens[start : stop + 1]
        flat.tokens[part], flat.targets[part] = read[:-1], read[1:]
        flat.segments[part], flat.positions[part] = segment, numbers[: stop - start]
        flat.weights[part] = 1 if documents.pieces is None else documents.counts(np.arange(start + 1, stop + 1))


def gather_spans(
    flat: Rows, documents: Documents, at: np.ndarray, starts: np.ndarray, stops: np.ndarray, segments: np.ndarray
) -> None:
    """Writes spans, all at once, to the places `at` of flat rows: many short ones cost too much one by one."""
    lengths = stops - starts
    to, inputs = expand(at, lengths), expand(starts, lengths)
    flat.tokens[to], flat.targets[to] = documents.tokens[inputs], documents.tokens[inputs + 1]
    flat.segments[to] = np.repeat(segments, lengths)
    flat.positions[to] = expand(np.zeros_like(lengths), lengths)
    flat.weights[to] = documents.counts(inputs + 1)


def mixed(config: Data, sources: list[TrainingSource], batch_size: int) -> tuple[list[MixedSource], list[tuple]]:
    """The arguments of Mixing: the sources, and the weights from each row on. Rows that belong together are one."""
    described = []
    for source, part in zip(sources, config.parts, strict=True):
        rows = source.packing.rows_per_epoch // config.rows_together
        described.append(MixedSource(source.name, source.packing.predictions / rows, rows, part.at_end == "repeat"))
    later = config.source.phases if isinstance(config.source, Mixture) else ()
    phases = [(0, [part.weight for part in config.parts])]
    return described, phases + [(p.start * batch_size // config.rows_together, p.weights) for p in later]


def open_pipeline(
    config: Data,
    batch_size: int,
    seed: int,
    cache: Path,
    tokenizer: Tokenizer | None = None,
    report: Report = lambda _: None,
) -> Pipeline:
    """Opens a config's data: builds its tokenizer unless one is passed, and each store that the cache lacks.

    `tokenizer` is a checkpoint's. Raises DataError for bad text, too little to cut a row from, or none to score.
    """
    tokenizer = tokenizer or build_tokenizer(config.tokenizer, [part.source for part in config.parts], report)
    return pipeline_of(config, open_splits(config, tokenizer, cache, report), batch_size, seed, tokenizer, report)


def pipeline_of(
    config: Data, splits: Splits, batch_size: int, seed: int, tokenizer: Tokenizer, report: Report = lambda _: None
) -> Pipeline:
    """The pipeline over splits that are open. Raises DataError as open_pipeline does."""
    splits = splits._replace(training=[fit_responses(split, config, report) for split in splits.training])
    if config.packing == "pairs":  # scored as they are trained: each half in a row
        splits = splits._replace(validation=[fit_responses(split, config, report) for split in splits.validation])
    packings = []
    for part, split in zip(config.parts, splits.training, strict=True):
        check_length(split.documents, config, part)
        if without := split.documents.without_target:
            report(f"{part.source.path}: {without} of {len(split.documents)} documents have nothing to predict")
        report_lack(split.documents, part, report)
        packings.append(make_packing(config.packing, split.documents, config.length, seed, split.plans))
        share = padding_share(packings[-1], config.length)
        if share > 0.005:
            report(f"{part.source.path}: {share:.1%} of the places in rows are padding (data.packing={config.packing})")
    return Pipeline(config, tokenizer, splits, packings, batch_size)


def report_lack(documents: Documents, part: Part, report: Report) -> None:
    """Reports documents of which nothing counts in the loss. Raises DataError where no others have targets."""
    if not (without := count_without_response(documents)):
        return
    if without == len(documents) - documents.without_target:
        raise DataError(f"{part.source.path}: nothing to train on: {explain_lack(part.source)}")
    report(f"{part.source.path}: {without} of {len(documents)} documents have no response, and nothing of them counts")


def check_length(documents: Documents, config: Data, part: Part) -> None:
    """Raises DataError where the documents have nothing to predict, or too few tokens to fill a row."""
    targets = documents.targets
    if not targets:
        raise DataError(f"{part.source.path}: nothing to train on: no document of its training part has two tokens")
    if config.packing in ("windows", "concatenate") and targets < config.length:
        raise DataError(
            f"{part.source.path}: {targets} tokens to predict are fewer than a row of data.length={config.length}; "
            f"data.length={targets} would fit"
        )
