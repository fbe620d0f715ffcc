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
from data.windows import ScoredText, check_targets, document_numbers, scoring_rows, window_batches
from launch.inference.checkpoint import NOT_FINITE, LoadedCheckpoint
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
    rows of training (positions behind them were never trained); RunError where the loss is not finite; DataError.
    """
    if field is not None and text is None:
        raise ConfigError(f"field {field!r} without a text: --field goes with --text (in Python: field with text)")
    if run.config is None and text is None:
        raise ConfigError(
            f"{run.name} was imported and has no validation text; name one (--text FILE; in Python text=…)"
        )
    window = window or default_window(run)
    stride = stride or window
    context = run.model_config.context
    if not 1 <= stride <= window <= context:
        raise ConfigError(f"window {window}, stride {stride}: wanted 1 <= stride <= window <= context={context}")
    if line := run.length_warning(window):
        if isinstance(run.model_config.positions, Learned):
            raise ConfigError(f"window {window}: {line}; a window of {run.trained_length} at most")
        say(line)
    texts = [read_text(run, str(text), field)] if text is not None else validation_texts(run)
    rows = run.config.evaluation.rows if run.config else IMPORTED_ROWS
    bytes_of_all = sum(each.bytes for each in texts)
    model, unquantized = run.model, {}
    if run.execution.quantize != "none":
        plain = [score_text(model, each, (window, stride, rows), Calibration()).sums for each in texts]
        unquantized = {"unquantized": metrics(add_up(plain), bytes_of_all)}
        model = jax.jit(Transformer.for_decoding)(model)
    calibration = Calibration()
    scored = {each.name: score_text(model, each, (window, stride, rows), calibration) for each in texts}
    scores = metrics(add_up(each.sums for each in scored.values()), bytes_of_all)
    if not math.isfinite(scores["loss"]):
        raise RunError(f"{run.name} at step {run.step}: its loss is {scores['loss']}; {NOT_FINITE}")
    by_source = {each.name: metrics(scored[each.name].sums, each.bytes) for each in texts} if len(texts) > 1 else {}
    if examples is not None:
        examples += [example for each in texts for example in document_examples(run, each, scored[each.name])]
        examples.sort(key=lambda example: -example["loss"])
    shape = {"window": window, "stride": stride}
    rest = {"calibration": calibration.metrics(), "sources": by_source, "tasks": {}}
    return {"step": run.step, **scores, **shape, **rest, **unquantized}


class ScoredDocuments(NamedTuple):
    """The sums over a text, and over the targets of each of its documents: nats and tokens, float64 [documents]."""

    sums: LossSums
    nats: np.ndarray
    tokens: np.ndarray


def score_text(
    model: Transformer, text: ScoredText, shape: tuple[int, int, int], calibration: Calibration
) -> ScoredDocuments:
    """Scores a text in this window, stride and number of rows, and adds its targets to `calibration`."""
    documents, (window, _, rows) = text.documents, shape
    nats, tokens = np.zeros((2, len(documents)))
    nats_of_text = 0.0
    batches, kept = itertools.tee(scoring_rows(documents, *shape))
    scored = in_flight.bounded_map(lambda batch: score_tokens(model, batch), map(shard_rows, batches))
    for batch, windows, scores in zip(kept, window_batches(documents, *shape), scored, strict=True):
        numbers, weights = document_numbers(windows, window, rows).ravel(), batch.rows.weights
        weighted = np.asarray(scores.nats, np.float64) * weights
        nats += np.bincount(numbers, weighted.ravel(), len(documents))
        tokens += np.bincount(numbers, weights.ravel(), len(documents))
        nats_of_text += (weighted * batch.text).sum()
        calibration.add(scores, weights)
    return ScoredDocuments(LossSums(float(nats.sum()), round(tokens.sum()), float(nats_of_text)), nats, tokens)


def document_examples(run: LoadedCheckpoint, text: ScoredText, scored: ScoredDocuments) -> list[dict]:
    """What `--examples` writes of each document that has a target: its source, number, loss, tokens and beginning."""
    documents = text.documents
    numbers = np.flatnonzero(scored.tokens)
    starts, stops, _ = documents.bounds(numbers)
    return [
        {
            "source": text.name,
            "document": int(number),
            "loss": scored.nats[number] / scored.tokens[number],
            "tokens": int(scored.tokens[number]),
            "text": run.tokenizer.decode(documents.tokens[start : min(stop, start + EXAMPLE_TOKENS)].tolist()),
        }
        for number, start, stop in zip(numbers, starts, stops, strict=True)
    ]


def default_window(run: LoadedCheckpoint) -> int:
    return run.config.data.length if run.config else min(run.model_config.context, IMPORTED_WINDOW)


def validation_texts(run: LoadedCheckpoint) -> list[ScoredText]:
    """The validation texts of the run, each a source's. Raises DataError where one is not that of training any more."""
    data, fingerprints = run.config.data, run.metadata["data"]["validation"]
    stores = [
        find_store(cache_folder(), fingerprint) or tokenize_again(run, source, fingerprint)
        for source, fingerprint in zip(validation_sources(data), fingerprints, strict=True)
    ]
    return [scored_text(split, run.tokenizer) for split in validation_splits(data, stores, run.tokenizer)]


def tokenize_again(run: LoadedCheckpoint, source: Source, fingerprint: dict) -> Store:
    """The store of a source that the cache has no more. Raises DataError where the text has changed since training."""
    if sources.fingerprint(source) != fingerprint["source"]:  # checked first: another file may not even be readable
        raise DataError(
            f"{source.path}: not the validation text that {run.name} was trained with; put that text back, or name "
            "another (--text FILE; in Python text=…)"
        )
    return open_store(source, run.tokenizer, cache_folder(), say)


def read_text(run: LoadedCheckpoint, path: str, field: str | None = None) -> ScoredText:
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
