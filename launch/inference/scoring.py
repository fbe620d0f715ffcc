"""Scores a checkpoint over its validation split or a text: `skald evaluate` and `run.evaluate()` in a notebook."""

from __future__ import annotations

import math
import sys

from data.config import Source, spans
from data.documents import Documents, lossy_notice, tokenize_documents
from data.errors import DataError
from data.sources import source as sources
from data.store import open_store
from data.windows import check_targets, scoring_rows
from launch.inference.checkpoint import NOT_FINITE, LoadedCheckpoint
from launch.machine.detection import cache_folder
from model.config import Learned
from train.evaluate import metrics, score_model
from train.fields import ConfigError
from train.run import RunError


def evaluate(
    run: LoadedCheckpoint,
    text: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    field: str | None = None,
) -> dict:
    """Scores a checkpoint over its validation split, or over the file or folder `text`. Returns the JSON of `evaluate`.

    `window`: tokens a row, by default as in training. `stride`: tokens between windows, by default the window. `field`:
    the field of records that holds their text, by default the run's own.

    Raises ConfigError where the window is longer than the model's context, or, with learned positions, longer than the
    rows of training (positions behind them were never trained); RunError where the loss is not finite; DataError.
    """
    if field is not None and text is None:
        raise ConfigError(f"field {field!r} without a text: --field goes with --text (in Python: field with text)")
    window = window or run.config.data.length
    stride = stride or window
    if not 1 <= stride <= window <= run.config.model.context:
        context = run.config.model.context
        raise ConfigError(f"window {window}, stride {stride}: wanted 1 <= stride <= window <= context={context}")
    if line := run.length_warning(window):
        if isinstance(run.config.model.positions, Learned):
            raise ConfigError(f"window {window}: {line}; a window of {run.trained_length} at most")
        say(line)
    documents = text_documents(run, text, field) if text is not None else validation_documents(run)
    batches = scoring_rows(documents, window, stride, run.config.evaluation.rows)
    scores = metrics(score_model(run.model, batches), documents.bytes)
    if not math.isfinite(scores["loss"]):
        raise RunError(f"{run.name} at step {run.step}: its loss is {scores['loss']}; {NOT_FINITE}")
    return {"step": run.step, **scores, "window": window, "stride": stride, "tasks": {}}


def validation_documents(run: LoadedCheckpoint) -> Documents:
    """The validation split of the run. Raises DataError where the text has changed since the run was trained."""
    e = run.config
    source = e.data.validation_source or e.data.source
    if (
        sources.fingerprint(source) != run.metadata["data"]["validation"]["source"]
    ):  # checked first: another file may not even be readable
        raise DataError(
            f"{source.path}: not the validation text that {run.name} was trained with; put that text back, or name "
            "another (--text FILE; in Python text=…)"
        )
    return open_store(source, run.tokenizer, spans(e.data).validation, cache_folder(), say).documents


def text_documents(run: LoadedCheckpoint, path: str, field: str | None = None) -> Documents:
    """Every document of a file or folder. Raises DataError where there is nothing to score."""
    source = Source(path, run.config.data.source.field if field is None else field)
    texts = sources.read_documents(source, "name another field (--field NAME; in Python field=…)")
    documents, change = tokenize_documents(run.tokenizer, texts)
    if change:
        say(lossy_notice(change))
    check_targets(documents, path)
    return documents


def say(line: str) -> None:
    print(line, file=sys.stderr)
