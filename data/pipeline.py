"""The training data of a run: `rows(step, start, stop)` depends on config, data, seed and step alone.

launch/ opens a Pipeline, train/ asks it for the rows that its devices hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import packing
from data.config import Data, Source, spans
from data.documents import Documents
from data.errors import DataError
from data.rows import Rows
from data.sources import source as sources
from data.store import Store, open_store
from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from data.windows import check_targets


class Pipeline:
    """The rows of every step's global batch, the `train` and `validation` stores, and their `tokenizer`."""

    def __init__(self, config: Data, tokenizer: Tokenizer, train: Store, validation: Store, batch_size: int, seed: int):
        self.tokenizer, self.train, self.validation, self.batch_size, self.length = (
            tokenizer,
            train,
            validation,
            batch_size,
            config.length,
        )
        self.packing = packing.PACKINGS[config.packing](train.documents, config.length, seed)

    @property
    def fingerprints(self) -> dict:
        """What the rows depend on besides the config: stored with checkpoints, compared on resuming."""
        stores = {"train": self.train, "validation": self.validation}
        return {k: {f: s.manifest[f] for f in ("source", "tokenizer", "tokens")} for k, s in stores.items()}

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Rows start .. stop of the global batch of `step` (from 0)."""
        row_indices = step * self.batch_size + np.arange(start, stop)
        return cut_rows(self.train.documents, self.packing.token_indices(row_indices, self.length))


def cut_rows(documents: Documents, indices: np.ndarray) -> Rows:
    """Rows of the tokens at `indices` [B, T + 1] of `documents.tokens`; segments and positions restart at documents.

    A document's first token counts as a target only where it also ends the document before.
    """
    ids = documents.tokens[indices].astype(np.int32)
    inputs = indices[:, :-1]
    if len(documents.offsets) == 2:
        document, segments = np.zeros_like(indices), np.ones_like(inputs)
        positions = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape)
    else:
        document = np.searchsorted(documents.offsets, indices, side="right")
        is_start = np.diff(document[:, :-1], axis=1, prepend=-1) != 0
        segments = np.cumsum(is_start, axis=1)
        column = np.arange(inputs.shape[1])
        positions = column - np.maximum.accumulate(np.where(is_start, column, 0), axis=1)
    weights = (document[:, 1:] == document[:, :-1]) | documents.shared
    return Rows(
        ids[:, :-1], ids[:, 1:], segments.astype(np.int32), positions.astype(np.int32), weights.astype(np.float32)
    )


def open_pipeline(
    config: Data,
    batch_size: int,
    seed: int,
    cache: Path,
    tokenizer: Tokenizer | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Pipeline:
    """Opens a config's data: builds its tokenizer unless one is passed, and each store that the cache lacks.

    `tokenizer` is a checkpoint's. Raises DataError for bad text, too little to cut a row from, or none to score.
    """
    validation_source = config.validation_source or config.source
    check_disjoint(config.source, validation_source)
    tokenizer = tokenizer or build_tokenizer(config.tokenizer, config.source, report)
    splits = spans(config)
    train = open_store(config.source, tokenizer, splits.train, cache, report)
    validation = open_store(validation_source, tokenizer, splits.validation, cache, report)
    packing.check_length(train.documents, config.length, config.source.path)
    origin = f"{validation_source.path}, data.validation {splits.validation.start:g} to {splits.validation.stop:g}"
    check_targets(validation.documents, origin)
    return Pipeline(config, tokenizer, train, validation, batch_size, seed)


def check_disjoint(source: Source, validation: Source) -> None:
    """Raises DataError where a file is read by both of two different sources, and from the same field."""
    if source == validation or source.field != validation.field:
        return
    files = {path.resolve() for path in sources.source_files(source)}
    if common_files := [path for path in sources.source_files(validation) if path.resolve() in files]:
        remedy = f"move it out of {source.path}" if len(files) > 1 else "data.validation_source=null takes a part of it"
        raise DataError(f"{common_files[0]} is in data.source, too, and would be trained on; {remedy}")
