"""Documents of prompt and response that are longer than a row: its end would be learnt without the prompt.

data/pipeline.py asks here before documents are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.config import Data
from data.errors import DataError
from data.splits import Split

KEEP_WHOLE = ("best_fit", "padding", "pairs")  # packings that cut no document that fits in a row


def fit_responses(split: Split, config: Data, report: Callable[[str], None]) -> Split:
    """The split without documents that no row of config.length holds, where it has prompts and is packed by document; a
    preference pair is as long as its longer half.

    Raises DataError for the first of them, unless config.too_long is `drop`.
    """
    targets = targets_of_responses(split, config)
    fits = targets <= config.length
    if fits.all():
        return split
    place, longer = split.store.manifest["source_path"], words(fits, config)
    if config.too_long == "refuse":
        first = int(split.documents.in_store(np.flatnonzero(~fits)[:1])[0])
        origin = split.store.origin(first)
        raise DataError(
            f"{place}: {longer}, the first of them record {origin.record + 1} of file {origin.file + 1} with "
            f"{targets[~fits][0]} tokens; data.length={targets.max()} holds all, data.too_long=drop leaves them out"
        )
    report(f"{place}: {longer} and left out")
    kept = split.documents.in_store(np.flatnonzero(fits))
    documents = replace(split.documents, index=kept)
    return split._replace(documents=documents, plans=split.plans.within("fits", config.length))


def report_cut_responses(split: Split, config: Data, report: Callable[[str], None]) -> None:
    """Says how many documents of prompt and response are scored in parts, as an evaluation's windows are rows."""
    fits = targets_of_responses(split, config) <= config.length
    if not fits.all():
        place = split.store.manifest["source_path"]
        report(f"{place}, validation: {words(fits, config)}: what is behind it is scored without the prompt")


def targets_of_responses(split: Split, config: Data) -> np.ndarray:
    """The tokens to predict of each document, of a preference pair's longer half; none without prompts, or where rows
    are not filled by document."""
    documents = split.documents
    halves = [documents] if documents.halves is None else [replace(documents, half=half) for half in (0, 1)]
    has_responses = documents.pieces is not None or documents.halves is not None
    if not has_responses or config.packing not in KEEP_WHOLE or not len(documents):
        return np.zeros(0, np.int64)
    each = [[half.bounds(numbers).targets for numbers in documents.chunks()] for half in halves]
    return np.max([np.concatenate(targets) for targets in each], axis=0)


def words(fits: np.ndarray, config: Data) -> str:
    return f"{np.sum(~fits)} of {len(fits)} documents are longer than a row of data.length={config.length}"
