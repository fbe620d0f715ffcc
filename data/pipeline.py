"""From a Data config to rows: `rows(step, start, stop)` depends on config, data, seed and step alone.

launch/ opens a Pipeline, train/ asks it for the rows its devices hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import packing, sources, tokenizer
from data.config import Data, Source, spans
from data.documents import Documents
from data.errors import DataError
from data.rows import Rows
from data.store import Store, open_store
from data.windows import check_targets


class Pipeline:
    """`tokenizer`, the `train` and `validation` stores, and the global batch of every step."""

    def __init__(
        self, config: Data, words: tokenizer.Tokenizer, train: Store, validation: Store, batch: int, seed: int
    ):
        self.tokenizer, self.train, self.validation, self.batch, self.length = (
            words,
            train,
            validation,
            batch,
            config.length,
        )
        self.packing = packing.PACKINGS[config.rows](train.documents, config.length, seed)

    @property
    def fingerprints(self) -> dict:
        """What the rows depend on besides the config: stored with checkpoints, compared on resuming."""
        named = {"train": self.train, "validation": self.validation}
        return {k: {f: s.manifest[f] for f in ("source", "tokenizer", "tokens")} for k, s in named.items()}

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Rows start .. stop of the global batch of `step` (from 0)."""
        number = step * self.batch + np.arange(start, stop)
        return cut_rows(self.train.documents, self.packing.token_indices(number, self.length))


def cut_rows(documents: Documents, places: np.ndarray) -> Rows:
    """Rows whose tokens stand at `places` [B, T + 1]: segments and positions restart at each document.

    A document's first token is a target only where it ends the one before.
    """
    ids = documents.tokens[places].astype(np.int32)
    inputs = places[:, :-1]
    if len(documents.offsets) == 2:
        number, segments = np.zeros_like(places), np.ones_like(inputs)
        positions = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape)
    else:
        number = np.searchsorted(documents.offsets, places, side="right")
        new = np.diff(number[:, :-1], axis=1, prepend=-1) != 0
        segments = np.cumsum(new, axis=1)
        column = np.arange(inputs.shape[1])
        positions = column - np.maximum.accumulate(np.where(new, column, 0), axis=1)
    weights = (number[:, 1:] == number[:, :-1]) | documents.shared
    return Rows(
        ids[:, :-1], ids[:, 1:], segments.astype(np.int32), positions.astype(np.int32), weights.astype(np.float32)
    )


def open_pipeline(
    config: Data,
    batch: int,
    seed: int,
    cache: Path,
    words: tokenizer.Tokenizer | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Pipeline:
    """Reads the tokenizer (or takes a checkpoint's), prepares both stores where the cache lacks them.

    Raises DataError for bad text, too little to cut a row from, or none to score.
    """
    given = config.validation_source or config.source
    check_disjoint(config.source, given)
    words = words or tokenizer.build_tokenizer(config.tokenizer, config.source, report)
    part = spans(config)
    train = open_store(config.source, words, part.train, cache, report)
    validation = open_store(given, words, part.validation, cache, report)
    packing.check_length(train.documents, config.length, config.source.path)
    place = f"{given.path}, data.validation {part.validation.start:g} to {part.validation.stop:g}"
    check_targets(validation.documents, place)
    return Pipeline(config, words, train, validation, batch, seed)


def check_disjoint(source: Source, validation: Source) -> None:
    """Raises DataError where a file of one of two sources is a file of the other, too, read in the same way."""
    if source == validation or source.field != validation.field:
        return
    files = {path.resolve() for path in sources.source_files(source)}
    if common := [path for path in sources.source_files(validation) if path.resolve() in files]:
        instead = (
            f"move it out of {source.path}" if len(files) > 1 else "data.validation_source=null takes a part of it"
        )
        raise DataError(f"{common[0]} is in data.source, too, and would be trained on; {instead}")
