"""`skald evaluate RUN`: nats a token, perplexity and bits a byte over the validation split or a text file."""

from __future__ import annotations

import functools
import json
import sys
from argparse import Namespace

import numpy as np

from data import sources
from data.config import Source
from data.errors import DataError
from data.pipeline import open_data
from data.store import encoded
from data.windows import check_targets, score_rows
from launch import machine
from launch.checkpointed import Checkpointed
from train.evaluate import score, scores
from train.fields import ConfigError


def command(arguments: Namespace) -> int:
    run = Checkpointed(arguments.run)
    found = evaluate(run, arguments.text, arguments.window, arguments.stride)
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{run.name} at step {found['step']}: {found['loss']:.4f} nats a token, perplexity "
            f"{found['perplexity']:.3f}, {found['bits_per_byte']:.4f} bits a byte\n"
            f"{found['tokens']} tokens of {arguments.text or 'the validation split'}, window {found['window']}, "
            f"stride {found['stride']}"
        )
    return 0


def evaluate(run: Checkpointed, text: str | None = None, window: int | None = None, stride: int | None = None) -> dict:
    """Scores a checkpoint; `window` defaults to the rows it was trained on, `stride` to the window."""
    window = window or run.config.data.length
    stride = stride or window
    if not 1 <= stride <= window <= run.config.model.context:
        context = run.config.model.context
        raise ConfigError(f"--window {window} --stride {stride}: wanted 1 <= stride <= window <= context={context}")
    tokens, offsets, size = text_tokens(run, text) if text is not None else validation_tokens(run)
    batches = score_rows(tokens, window, stride, run.config.evaluation.rows, offsets)
    found = scores(*score(run.model, batches), size)
    return {"step": run.step, **found, "window": window, "stride": stride, "tasks": {}}


def validation_tokens(run: Checkpointed):
    """The run's own validation split: its tokens, offsets of documents, and bytes of text.

    Raises DataError where the text is not the one the run was scored on.
    """
    e = run.config
    say = functools.partial(print, file=sys.stderr)
    opened = open_data(e.data, e.batch_size, e.seed, machine.cache(), run.tokenizer, say)
    if opened.fingerprints["validation"] != run.about["data"]["validation"]:
        path = (e.data.validation_source or e.data.source).path
        raise DataError(
            f"{path}: not the validation text that {run.name} was trained with; put that text back, or name another "
            "with --text FILE"
        )
    store = opened.validation
    return store.tokens, store.offsets, store.manifest["bytes"]


def text_tokens(run: Checkpointed, path: str):
    """Every document of a file or folder, each scored by itself. Raises DataError where there is nothing to score."""
    documents = list(sources.documents(Source(path)))
    ids = [np.asarray(encoded(run.tokenizer, document), np.int32) for document in documents]
    offsets = np.cumsum([0, *map(len, ids)])
    check_targets(offsets, path)
    return np.concatenate(ids), offsets, sum(len(document.text.encode()) for document in documents)
