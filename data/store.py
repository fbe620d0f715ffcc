"""Tokenized documents on disk: made once, published whole, read by memory map. data/pipeline.py cuts rows from them.

A store is a folder named by what it holds: tokens.bin, offsets.npy (where documents start, and the end),
manifest.json. It is written beside its place and renamed into it, so an unfinished one has no name to be read by.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data import sources, tokenizer
from data.config import Source, Span
from data.errors import DataError

FORMAT = 2


class Store:
    """`tokens` [n] of all documents joined, `offsets` [documents + 1], and the manifest's counts."""

    def __init__(self, folder: Path):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.tokens = np.memmap(folder / "tokens.bin", self.manifest["dtype"], "r")
        self.offsets = np.load(folder / "offsets.npy")

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1


def cut(source: Source, span: Span) -> Iterator[sources.Document]:
    """The source's text from span.start to span.stop of its characters; documents are cut where the borders fall."""
    if (span.start, span.stop) == (0.0, 1.0):
        yield from sources.documents(source)
        return
    total = sum(len(document.text) for document in sources.documents(source))
    first, last, seen = int(total * span.start), int(total * span.stop), 0
    for document in sources.documents(source):
        start = max(0, first - seen)
        text = document.text[start : max(0, last - seen)]
        seen += len(document.text)
        if text:
            yield sources.Document(text, document.origin + (f" from offset {start}" if start else ""))


def prepare(
    source: Source, words: tokenizer.Tokenizer, span: Span, cache: Path, report: Callable[[str], None] = lambda _: None
) -> Store:
    """The store of a source's span under a tokenizer: opened where it is in the cache, made where it is not.

    Raises DataError for bad text, and where the cache can't be written.
    """
    about = {
        "format": FORMAT,
        "source": sources.fingerprint(source),
        "tokenizer": tokenizer.fingerprint(words),
        "span": [span.start, span.stop],
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    place = cache / "stores" / name
    if not (place / "manifest.json").is_file():
        report(f"tokenizing {source.path} ({span.start:g} to {span.stop:g})")
        try:
            make(source, words, span, place, about)
        except OSError as error:
            raise DataError(f"{cache}: can't write the token cache ({error.strerror}); set SKALD_CACHE") from None
    return Store(place)


def make(source: Source, words: tokenizer.Tokenizer, span: Span, place: Path, about: dict) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.unfinished-", dir=place.parent))
    try:
        manifest = {**about, **write(source, words, span, folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        os.rename(folder, place)
    except OSError:
        if not (place / "manifest.json").is_file():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def encoded(words: tokenizer.Tokenizer, document: sources.Document) -> list[int]:
    """Raises DataError naming the document, where it holds what the tokenizer does not know."""
    try:
        return words.encode(document.text)
    except DataError as error:
        raise DataError(f"{document.origin}: {error}") from None


def write(source: Source, words: tokenizer.Tokenizer, span: Span, folder: Path) -> dict:
    """Encodes every document into the folder; returns what the manifest says of it."""
    dtype = "uint16" if words.vocab_size <= 1 << 16 else "uint32"
    offsets, size, characters = [0], 0, 0
    with (folder / "tokens.bin").open("wb") as out:
        for document in cut(source, span):
            ids = np.asarray(encoded(words, document), dtype)
            if words.end_id is not None:
                ids = np.append(ids, np.asarray(words.end_id, dtype))
            out.write(ids.tobytes())
            offsets.append(offsets[-1] + len(ids))
            size, characters = size + len(document.text.encode("utf-8")), characters + len(document.text)
        out.flush()
        os.fsync(out.fileno())
    if not offsets[-1]:
        raise DataError(f"{source.path}: no text between {span.start:g} and {span.stop:g} of it")
    np.save(folder / "offsets.npy", np.asarray(offsets, np.int64))
    counts = {"documents": len(offsets) - 1, "tokens": offsets[-1], "bytes": size, "characters": characters}
    return {"source_path": source.path, "dtype": dtype, **counts}
