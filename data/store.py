"""Tokenized documents on disk: made once, published whole, read by memory map. data/pipeline.py cuts rows from them.

A store is a folder named by what it holds: tokens.bin, offsets.npy (data/documents.py says what they are),
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
from data.documents import Documents, closing_tokens, encode_document, lossy_notice, shares_boundary
from data.errors import DataError

FORMAT = 3


class Store:
    """Documents, and the manifest's counts."""

    def __init__(self, folder: Path):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        tokens = np.memmap(folder / "tokens.bin", self.manifest["dtype"], "r")
        about = (self.manifest[name] for name in Documents._fields[2:])
        self.documents = Documents(tokens, np.load(folder / "offsets.npy"), *about)


def documents_in_span(source: Source, span: Span) -> Iterator[sources.Document]:
    """The source's text from span.start to span.stop of its characters; documents are cut where the borders fall."""
    if (span.start, span.stop) == (0.0, 1.0):
        yield from sources.read_documents(source)
        return
    total = sum(len(document.text) for document in sources.read_documents(source))
    first, last, seen = int(total * span.start), int(total * span.stop), 0
    for document in sources.read_documents(source):
        start = max(0, first - seen)
        text = document.text[start : max(0, last - seen)]
        seen += len(document.text)
        if text:
            yield sources.Document(text, document.origin + (f" from offset {start}" if start else ""))


def open_store(
    source: Source, words: tokenizer.Tokenizer, span: Span, cache: Path, report: Callable[[str], None] = lambda _: None
) -> Store:
    """The store of a source's span under a tokenizer: opened where it is in the cache, made where it is not.

    Raises DataError for bad text, and where the cache can't be written.
    """
    about = {
        "format": FORMAT,
        "source": sources.fingerprint(source),
        "tokenizer": tokenizer.tokenizer_fingerprint(words),
        "span": [span.start, span.stop],
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    place = cache / "stores" / name
    if not (place / "manifest.json").is_file():
        report(f"tokenizing {source.path} ({span.start:g} to {span.stop:g})")
        try:
            build_store(source, words, span, place, about)
        except OSError as error:
            raise DataError(f"{cache}: can't write the token cache ({error.strerror}); set SKALD_CACHE") from None
    store = Store(place)
    if store.manifest["change"]:
        report(lossy_notice(store.manifest["change"]))
    return store


def build_store(source: Source, words: tokenizer.Tokenizer, span: Span, place: Path, about: dict) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.unfinished-", dir=place.parent))
    try:
        manifest = {**about, **write_documents(source, words, span, folder)}
        if sources.fingerprint(source) != about["source"]:  # else this text would be kept under the other's name
            raise DataError(f"{source.path}: changed while it was read; start again once nothing writes there")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        os.rename(folder, place)
    except OSError:
        if not (place / "manifest.json").is_file():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_documents(source: Source, words: tokenizer.Tokenizer, span: Span, folder: Path) -> dict:
    """Encodes every document into the folder; returns what the manifest says of it."""
    dtype = "uint16" if words.vocab_size <= 1 << 16 else "uint32"
    offsets, size, characters, change = [0], 0, 0, None
    with (folder / "tokens.bin").open("wb") as out:
        for document in documents_in_span(source, span):
            encoded = encode_document(words, document)
            out.write(np.asarray(encoded.tokens, dtype).tobytes())
            offsets.append(offsets[-1] + len(encoded.tokens))
            size, characters = size + encoded.bytes, characters + len(document.text)
            change = change or encoded.change
        out.write(np.asarray(closing_tokens(words), dtype).tobytes())
        out.flush()
        os.fsync(out.fileno())
    if not characters:
        raise DataError(f"{source.path}: no text between {span.start:g} and {span.stop:g} of it")
    np.save(folder / "offsets.npy", np.asarray(offsets, np.int64))
    tokens = offsets[-1] + len(closing_tokens(words))
    counts = {"documents": len(offsets) - 1, "tokens": tokens, "bytes": size, "characters": characters}
    kind = {"shared": shares_boundary(words), "ended": words.end_id is not None, "change": change}
    return {"source_path": source.path, "dtype": dtype, **counts, **kind}
