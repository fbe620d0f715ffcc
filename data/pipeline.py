"""From a Data config to rows: `rows(step, start, stop)` depends on config, data, seed and step alone.

launch/ opens a Pipeline, train/ asks it for the rows its devices hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import packing, tokenizer
from data.config import Data
from data.rows import Rows
from data.store import Store, prepare
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
        self.packing = packing.PACKINGS[config.rows](train, config.length, seed)

    @property
    def fingerprints(self) -> dict:
        """What the rows depend on besides the config: stored with checkpoints, compared on resuming."""
        named = {"train": self.train, "validation": self.validation}
        return {k: {f: s.manifest[f] for f in ("source", "tokenizer", "tokens")} for k, s in named.items()}

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Rows start .. stop of the global batch of `step` (from 0)."""
        number = step * self.batch + np.arange(start, stop)
        return cut_rows(self.train, self.packing.places(number, self.length))


def cut_rows(store: Store, places: np.ndarray) -> Rows:
    """Rows whose tokens stand at `places` [B, T + 1] of a store: segments and positions restart at each document."""
    ids = store.tokens[places].astype(np.int32)
    inputs = places[:, :-1]
    if store.documents == 1:
        documents, segments = np.zeros_like(places), np.ones_like(inputs)
        positions = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape)
    else:
        documents = np.searchsorted(store.offsets, places, side="right")
        new = np.diff(documents[:, :-1], axis=1, prepend=-1) != 0
        segments = np.cumsum(new, axis=1)
        column = np.arange(inputs.shape[1])
        positions = column - np.maximum.accumulate(np.where(new, column, 0), axis=1)
    weights = documents[:, 1:] == documents[:, :-1]
    return Rows(
        ids[:, :-1], ids[:, 1:], segments.astype(np.int32), positions.astype(np.int32), weights.astype(np.float32)
    )


def open_data(
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
    words = words or tokenizer.build(config.tokenizer, config.source)
    train = prepare(config.source, words, config.train, cache, report)
    validation = prepare(config.validation_source or config.source, words, config.validation, cache, report)
    opened = Pipeline(config, words, train, validation, batch, seed)
    part = f"{config.validation.start:g} to {config.validation.stop:g}"
    check_targets(validation.offsets, f"{(config.validation_source or config.source).path}, data.validation {part}")
    return opened
