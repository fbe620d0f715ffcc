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

KEEP_WHOLE = ("best_fit", "padding")  # packings that cut no document that fits in a row


def fit_responses(split: Split, config: Data, report: Callable[[str], None]) -> Split:
    """The split without documents that no row of config.length holds, where it has prompts and is packed by document.

    Raises DataError for the first of them, unless config.too_long is `drop`.
    """
    if split.documents.pieces is None or config.packing not in KEEP_WHOLE:
        return split
    targets = np.concatenate([split.documents.bounds(numbers).targets for numbers in split.documents.chunks()])
    fits = targets <= config.length
    if fits.all():
        return split
    place = split.store.manifest["source_path"]
    longer = f"{np.sum(~fits)} of {len(fits)} documents are longer than a row of data.length={config.length}"
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
