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
from data.windows import score_rows
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
    tokens, offsets, size = text_tokens(run, text) if text else validation_tokens(run)
    batches = score_rows(tokens, window, stride, run.config.evaluation.rows, offsets)
    found = scores(*score(run.model, batches), size)
    return {"step": run.step, **found, "window": window, "stride": stride, "tasks": {}}


def validation_tokens(run: Checkpointed):
    """The run's own validation split: its tokens, offsets of documents, and bytes of text."""
    e = run.config
    say = functools.partial(print, file=sys.stderr)
    store = open_data(e.data, e.batch_size, e.seed, machine.cache(), run.tokenizer, say).validation
    return store.tokens, store.offsets, store.manifest["bytes"]


def text_tokens(run: Checkpointed, path: str):
    """Every document of a file or folder, each scored by itself."""
    texts, ids = [], []
    for document in sources.documents(Source(path)):
        texts.append(document.text)
        ids.append(encoded(run, document))
    offsets = np.cumsum([0, *map(len, ids)])
    return np.concatenate([np.asarray(i, np.int32) for i in ids]), offsets, sum(len(t.encode()) for t in texts)


def encoded(run: Checkpointed, document: sources.Document) -> list[int]:
    """Raises DataError naming the document, where it holds what the tokenizer does not know."""
    try:
        return run.tokenizer.encode(document.text)
    except DataError as error:
        raise DataError(f"{document.origin}: {error}") from None
