"""Scores a checkpoint over its validation split or a text: `skald evaluate` and `run.evaluate()` in a notebook."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data.config import Source
from data.errors import DataError
from data.sources import source as sources
from data.splits import scored_text, validation_sources, validation_splits
from data.store.store import Store, find_store, open_store
from data.tokenizers.tokenizer import Tokenizer
from data.windows import ScoredText, check_targets, scoring_rows, window_batches, window_numbers
from launch.inference.checkpoint import NOT_FINITE, DescribedCheckpoint, LoadedCheckpoint
from launch.inference.devices import on_every_device, on_mesh, replica_mesh
from launch.machine.detection import cache_folder
from model.config import Learned
from model.transformer import Transformer
from train import in_flight
from train.calibration import Calibration, score_tokens
from train.evaluate import LossSums, add_up, metrics
from train.feed import shard_rows
from train.fields import ConfigError
from train.run import RunError

EXAMPLE_TOKENS = 64  # of a document's beginning, in `--examples`
IMPORTED_WINDOW, IMPORTED_ROWS = 1024, 4  # tokens a row, and rows at a time, where no experiment says how many


class LossNotFinite(RunError):
    """The loss of a checkpoint is no finite number. The message is one line."""


class ScoredWindows(NamedTuple):
    """Of each window of a text, in order: its `document`, `start` and `stop` as in data/windows.py, and the sums over
    its targets: `nats`, their number `tokens`, and the `text_nats` of those that stand for text. Arrays [windows]."""

    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    nats: np.ndarray
    tokens: np.ndarray
    text_nats: np.ndarray

    @property
    def sums(self) -> LossSums:
        return LossSums(float(self.nats.sum()), round(self.tokens.sum()), float(self.text_nats.sum()))

    def by_document(self, sums: np.ndarray, documents: int) -> np.ndarray:
        """One of these sums over each document of a text, float64 [documents]."""
        return np.bincount(self.document, sums, documents)


class Evaluation(NamedTuple):
    """What `evaluate` returns, and what it is made of: the texts and the scores of their windows, a text each."""

    metrics: dict
    texts: list[ScoredText]
    scored: list[ScoredWindows]


def evaluate(
    run: LoadedCheckpoint,
    text: str | Path | None = None,
    window: int | None = None,
    stride: int | None = None,
    field: str | None = None,
    examples: list[dict] | None = None,
) -> dict:
    """Scores a checkpoint over its validation split, or over the file or folder `text`. Returns the JSON of `evaluate`.

    `window`: tokens a row, by default as in training, for an imported checkpoint its context up to IMPORTED_WINDOW.
    `stride`: tokens between windows, by default the window. `field`: the field of records that holds their text, by
    default the run's own (`text` for an imported checkpoint). With execution.quantize the scores are of the weights as
    a decoder has them; `unquantized` has the metrics of those that they are rounded from.
    `examples`: a list that gets the score of every document, the worst first.

    Raises ConfigError where the window is longer than the model's context, or, with learned positions, longer than the
    rows of training (positions behind them were never trained); LossNotFinite; DataError.
    """
    window, stride = scoring_windows(run, window, stride)
    evaluation = evaluate_texts(run, texts_to_score(run, text, field), window, stride)
    if examples is not None:
        examples += document_examples(run.tokenizer, evaluation)
        examples.sort(key=lambda example: -example["loss"])
    return evaluation.metrics


def scoring_windows(run: DescribedCheckpoint, window: int | None, stride: int | None) -> tuple[int, int]:
    """The window and the stride with all defaults filled in. Raises ConfigError where the model can't read them."""
    window = window or default_window(run)
    stride = stride or window
    context = run.model_config.context
    if not 1 <= stride <= window <= context:
        raise ConfigError(f"window {window}, stride {stride}: wanted 1 <= stride <= window <= context={context}")
    if line := run.length_warning(window):
        if isinstance(run.model_config.positions, Learned):
            raise ConfigError(f"window {window}: {line}; a window of {run.trained_length} at most")
        say(line)
    return window, stride


def texts_to_score(run: DescribedCheckpoint, text: str | Path | None, field: str | None) -> list[ScoredText]:
    """The texts that `evaluate` scores. Raises ConfigError, DataError."""
    if field is not None and text is None:
        raise ConfigError(f"field {field!r} without a text: --field goes with --text (in Python: field with text)")
    if run.config is None and text is None:
        raise ConfigError(
            f"{run.name} was imported and has no validation text; name one (--text FILE; in Python text=…)"
        )
    return [read_text(run, str(text), field)] if text is not None else validation_texts(run)


class TextReader:
    """Reads the texts to score, as `texts_to_score`: once for checkpoints of the same tokenizer and data."""

    def __init__(self, text: str | Path | None, field: str | None):
        self.text, self.field = text, field
        self.origin: tuple | None = None  # of the texts read last
        self.texts: list[ScoredText] = []

    def __call__(self, run: LoadedCheckpoint) -> list[ScoredText]:
        origin = (run.metadata["tokenizer"], run.metadata["data"], run.config and run.config.data)
        if origin != self.origin:
            self.texts, self.origin = texts_to_score(run, self.text, self.field), origin
        return self.texts


def evaluate_texts(run: LoadedCheckpoint, texts: list[ScoredText], window: int, stride: int) -> Evaluation:
    """Scores a checkpoint over texts of its tokens, on all devices. Raises LossNotFinite."""
    mesh = replica_mesh()
    devices, rows = mesh.size if mesh else 1, run.config.evaluation.rows if run.config else IMPORTED_ROWS
    shape = (window, stride, -(-rows // devices) * devices)
    bytes_of_all, unquantized, calibration = sum(each.bytes for each in texts), {}, Calibration()
    with on_mesh(mesh):
        model = on_every_device(run.model)
        if run.execution.quantize != "none":
            plain = [score_text(model, each, shape, Calibration()).sums for each in texts]
            unquantized = {"quantize": run.execution.quantize, "unquantized": metrics(add_up(plain), bytes_of_all)}
            model = jax.jit(Transformer.for_decoding)(model)
        scored = [score_text(model, each, shape, calibration) for each in texts]
    scores = metrics(add_up(each.sums for each in scored), bytes_of_all)
    if not math.isfinite(scores["loss"]):
        raise LossNotFinite(f"{run.name} at step {run.step}: its loss is {scores['loss']}; {NOT_FINITE}")
    by_source = {text.name: metrics(each.sums, text.bytes) for text, each in zip(texts, scored, strict=True)}
    given = {"step": run.step, **scores, "window": window, "stride": stride}
    rest = {"calibration": calibration.metrics(), "sources": by_source if len(texts) > 1 else {}, "tasks": {}}
    return Evaluation({**given, **rest, **unquantized}, texts, scored)


def score_text(
    model: Transformer, text: ScoredText, shape: tuple[int, int, int], calibration: Calibration
) -> ScoredWindows:
    """Scores a text in this window, stride and number of rows, and adds its targets to `calibration`."""
    documents, (window, _, rows) = text.documents, shape
    parts = []
    batches, kept = itertools.tee(scoring_rows(documents, *shape))
    scored = in_flight.bounded_map(lambda batch: score_tokens(model, batch), map(shard_rows, batches))
    for batch, by_row, scores in zip(kept, window_batches(documents, *shape), scored, strict=True):
        weights, windows = batch.rows.weights, [window for row in by_row for window in row]
        numbers = window_numbers(by_row, window, rows).ravel()
        nats = np.asarray(scores.nats, np.float64) * weights
        sums = [np.bincount(numbers, x.ravel(), len(windows)) for x in (nats, weights, nats * batch.text)]
        parts.append((*np.array([window[:3] for window in windows]).T, *sums))
        calibration.add(scores, weights)
    return ScoredWindows(*map(np.concatenate, zip(*parts, strict=True)))


def document_examples(tokenizer: Tokenizer, evaluation: Evaluation) -> list[dict]:
    """What `--examples` writes of each document that has a target: its source, number, loss, tokens and beginning."""
    examples = []
    for text, scored in zip(evaluation.texts, evaluation.scored, strict=True):
        nats, tokens = (scored.by_document(x, len(text.documents)) for x in (scored.nats, scored.tokens))
        numbers = np.flatnonzero(tokens)
        starts, stops, _ = text.documents.bounds(numbers)
        for number, start, stop in zip(numbers, starts, stops, strict=True):
            place = {"source": text.name, "document": int(number)}
            scores = {"loss": nats[number] / tokens[number], "tokens": int(tokens[number])}
            examples.append({**place, **scores, "text": beginning(tokenizer, text, start, stop)})
    return examples


def beginning(tokenizer: Tokenizer, text: ScoredText, start: int, stop: int) -> str:
    """The first tokens of a part of a text, at most EXAMPLE_TOKENS."""
    return tokenizer.decode(text.documents.tokens[start : min(stop, start + EXAMPLE_TOKENS)].tolist())


def default_window(run: DescribedCheckpoint) -> int:
    return run.config.data.length if run.config else min(run.model_config.context, IMPORTED_WINDOW)


def validation_texts(run: DescribedCheckpoint) -> list[ScoredText]:
    """The validation texts of the run, each a source's. Raises DataError where one is not that of training any more."""
    data, fingerprints = run.config.data, run.metadata["data"]["validation"]
    stores = [
        find_store(cache_folder(), fingerprint) or tokenize_again(run, source, fingerprint)
        for source, fingerprint in zip(validation_sources(data), fingerprints, strict=True)
    ]
    return [scored_text(split, run.tokenizer) for split in validation_splits(data, stores, run.tokenizer)]


def tokenize_again(run: DescribedCheckpoint, source: Source, fingerprint: dict) -> Store:
    """The store of a source that the cache has no more. Raises DataError where the text has changed since training."""
    if sources.fingerprint(source) != fingerprint["source"]:  # checked first: another file may not even be readable
        raise DataError(
            f"{source.path}: not the validation text that {run.name} was trained with; put that text back, or name "
            "another (--text FILE; in Python text=…)"
        )
    return open_store(source, run.tokenizer, cache_folder(), say)


def read_text(run: DescribedCheckpoint, path: str, field: str | None = None) -> ScoredText:
    """Every document of a file or folder. Raises DataError where there is nothing to score."""
    own_field = run.config.data.parts[0].source.field if run.config else Source(path).field
    source = Source(path, own_field if field is None else field)
    remedy = "name another field (--field NAME; in Python field=…)"
    with tempfile.TemporaryDirectory() as folder:  # what is mapped to memory stays until it is read no more
        documents = open_store(source, run.tokenizer, Path(folder), say, remedy).documents
    text = ScoredText(path, documents, int(documents.sizes.sum()))
    check_targets(text, path)
    return text


def say(line: str) -> None:
    print(line, file=sys.stderr)
