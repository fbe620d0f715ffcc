"""Builds the index of a training split, and finds the one that the cache has.

An index is a folder `index/NAME` of its store, whose NAME says which documents it holds: those of one training split.
It has manifest.json and, of each part, the arrays of data/index/part.py. It is built under another name, and renamed
when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.documents import CHUNK, Documents
from data.errors import DataError
from data.index.part import LONGEST_WINDOW, part_file
from data.index.suffix_array import BORDER, suffix_array
from data.plans import RULES, save_whole
from data.splits import Split
from data.store.lock import locked
from data.store.store import explain_cache_error
from data.store.writer import write_json

FORMAT = 2  # of an index's files
PART_TOKENS = 1 << 26  # of a part, at most: it is sorted in 1 GB of memory, 2 GB where tokens take four bytes
OVERLAP = 1 << 12  # tokens behind a part that cuts a document: spans up to this length are found whole

Report = Callable[[str], None]


def open_index_folder(split: Split, report: Report = lambda _: None, part_tokens: int = PART_TOKENS) -> Path:
    """The folder of the index of a training split, which is built first if the cache does not have it.

    Where another process builds the same one, waits for it. Raises DataError where the cache can't be written.
    """
    folder = index_folder(split)
    if (folder / "manifest.json").is_file():
        return folder
    path = split.store.manifest["source_path"]
    try:
        folder.parent.mkdir(exist_ok=True)
        lock = folder.with_suffix(".lock")
        with locked(lock, lambda: report(f"{path}: another process makes its index; waiting")):
            if not (folder / "manifest.json").is_file():
                build_index(split, folder, report, part_tokens)
    except OSError as error:
        raise DataError(explain_cache_error(split.store.folder.parents[1], error)) from None
    return folder


def index_folder(split: Split) -> Path:
    """Where the index of a split lies. What its documents are is a part of the name."""
    identity = json.dumps([FORMAT, RULES, *split.plans.context])
    return split.store.folder / "index" / hashlib.sha256(identity.encode()).hexdigest()[:24]


def build_index(split: Split, folder: Path, report: Report, part_tokens: int = PART_TOKENS) -> None:
    """Writes the index of a split's documents, whole or not at all."""
    started, unfinished = time.monotonic(), folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    parts = []
    for part in part_texts(split.documents, part_tokens):
        parts.append(write_part(unfinished, len(parts), *part))
        tokens, seconds = sum(each["tokens"] for each in parts), time.monotonic() - started
        report(f"{split.store.manifest['source_path']}: {tokens:,} tokens of training indexed in {seconds:.1f} s")
    described = {"tokens": sum(part["tokens"] for part in parts), "seconds": time.monotonic() - started}
    write_json(unfinished / "manifest.json", {"format": FORMAT, **described, "parts": parts})
    if folder.exists():  # without a manifest: nobody reads it
        shutil.rmtree(folder)
    unfinished.rename(folder)


def write_part(folder: Path, number: int, text: np.ndarray, owned: int, starts: np.ndarray, places: np.ndarray) -> dict:
    """Writes the arrays of a part. Returns what the manifest says of it."""
    suffixes = suffix_array(text, owned)
    counts = np.bincount(text[:owned])
    counts[BORDER] = 0
    buckets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    text = np.pad(text, (0, LONGEST_WINDOW), constant_values=BORDER)
    arrays = {"text": text, "suffixes": suffixes, "buckets": buckets, "starts": starts, "places": places}
    for name, array in arrays.items():
        save_whole(part_file(folder, name, number), array)
    return {"tokens": len(suffixes), "documents": len(starts)}


def part_texts(documents: Documents, part_tokens: int) -> Iterator[tuple[np.ndarray, int, np.ndarray, np.ndarray]]:
    """The text of each part, how much of it is the part's own, and where documents begin in it and in the store.

    A document that does not fit goes on in the next part, and its next OVERLAP tokens stand behind this one.
    """
    dtype = text_type(documents)
    text, starts, places, filled = np.zeros(part_tokens + OVERLAP + 2, dtype), [], [], 0
    for start, stop in spans(documents):
        while start < stop:
            count = min(stop - start, part_tokens - filled)
            starts.append(filled)
            places.append(start)
            tail = min(stop - start, count + OVERLAP)
            text[filled : filled + tail] = documents.tokens[start : start + tail].astype(dtype) + dtype.type(1)
            start, filled = start + count, filled + count
            if start == stop:
                text[filled] = BORDER
                filled += 1
            if start < stop or filled >= part_tokens:
                end = filled + tail - count
                text[end] = BORDER
                yield text[: end + 1], filled, np.array(starts, np.int32), np.array(places)
                starts, places, filled = [], [], 0
    if filled:
        yield text[:filled], filled, np.array(starts, np.int32), np.array(places)


def text_type(documents: Documents) -> np.dtype:
    """The type of an index's text, in which every token is one more than in the store, and none the greatest number."""
    tokens, stored = documents.tokens, documents.tokens[:1].dtype
    if stored.itemsize > 2:
        return stored
    chunks = (tokens[start : start + CHUNK] for start in range(0, len(tokens), CHUNK))
    most = np.iinfo(stored).max - 2
    return np.dtype(np.uint32 if any((chunk > most).any() for chunk in chunks) else stored)


def spans(documents: Documents) -> Iterator[tuple[int, int]]:
    """Where each document starts and stops; of preference pairs each half."""
    for starts, stops in chunks_of_spans(documents):
        yield from zip(starts.tolist(), stops.tolist(), strict=True)


def chunks_of_spans(documents: Documents) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same in arrays, int64, a bounded part at a time."""
    if documents.halves is not None and documents.half is None:
        for half in (0, 1):
            yield from chunks_of_spans(replace(documents, half=half))
        return
    for numbers in documents.chunks():
        starts, stops, _ = documents.bounds(numbers)
        yield starts, stops
