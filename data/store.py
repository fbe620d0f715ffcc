"""Tokenized documents on disk: written once, read by memory map. data/pipeline.py cuts rows from them.

A store is a folder with tokens.bin, offsets.npy (data/documents.py says what they are) and manifest.json. Its name is a
hash of what it holds. It is written under another name and renamed when complete: an unfinished one is never read.
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

from data.config import Source, Span
from data.documents import Documents, closing_tokens, encode_document, lossy_notice, shares_boundary
from data.errors import DataError
from data.sources import source as sources
from data.sources.document import Document, text_document
from data.tokenizers.tokenizer import Tokenizer, tokenizer_fingerprint

FORMAT = 3


class Store:
    """A store opened for reading: `documents` by memory map, and `manifest` with its counts."""

    def __init__(self, folder: Path):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        tokens = np.memmap(folder / "tokens.bin", self.manifest["dtype"], "r")
        fields = (self.manifest[name] for name in Documents._fields[2:])
        self.documents = Documents(tokens, np.load(folder / "offsets.npy"), *fields)


def documents_in_span(source: Source, span: Span) -> Iterator[Document]:
    """The documents between span.start and span.stop of a source's characters; one at a border is cut there."""
    if (span.start, span.stop) == (0.0, 1.0):
        yield from sources.read_documents(source)
        return
    total = sum(len(document.text) for document in sources.read_documents(source))
    first, last, seen = int(total * span.start), int(total * span.stop), 0
    for document in sources.read_documents(source):
        start = max(0, first - seen)
        whole = document.text
        text = whole[start : max(0, last - seen)]
        seen += len(whole)
        if text:
            yield text_document(text, document.origin + (f" from offset {start}" if start else ""))


def open_store(
    source: Source, tokenizer: Tokenizer, span: Span, cache: Path, report: Callable[[str], None] = lambda _: None
) -> Store:
    """Opens the store of a source's span under a tokenizer, and builds it first if the cache does not have it.

    `report` is given a line before the text is tokenized, and one where the tokenizer changes the text. Raises
    DataError for bad text, and where the cache can't be written.
    """
    identity = {
        "format": FORMAT,
        "source": sources.fingerprint(source),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "span": [span.start, span.stop],
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / "stores" / name
    if not (folder / "manifest.json").is_file():
        report(f"tokenizing {source.path} ({span.start:g} to {span.stop:g})")
        try:
            build_store(source, tokenizer, span, folder, identity)
        except OSError as error:
            raise DataError(f"{cache}: can't write the token cache ({error.strerror}); set SKALD_CACHE") from None
    store = Store(folder)
    if store.manifest["change"]:
        report(lossy_notice(store.manifest["change"]))
    return store


def build_store(source: Source, tokenizer: Tokenizer, span: Span, folder: Path, identity: dict) -> None:
    """Tokenizes a source's span into a temporary folder, and renames that to `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.unfinished-", dir=folder.parent))
    try:
        manifest = {**identity, **write_documents(source, tokenizer, span, temporary)}
        if sources.fingerprint(source) != identity["source"]:  # else the new text would be stored under the old's name
            raise DataError(f"{source.path}: changed while it was read; start again once nothing writes there")
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        os.rename(temporary, folder)
    except OSError:
        if not (folder / "manifest.json").is_file():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_documents(source: Source, tokenizer: Tokenizer, span: Span, folder: Path) -> dict:
    """Encodes every document into a folder; returns the entries of the manifest that describe them."""
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    offsets, size, characters, change = [0], 0, 0, None
    with (folder / "tokens.bin").open("wb") as file:
        for document in documents_in_span(source, span):
            text = document.text
            encoded = encode_document(tokenizer, document)
            file.write(np.asarray(encoded.tokens, dtype).tobytes())
            offsets.append(offsets[-1] + len(encoded.tokens))
            size, characters = size + encoded.bytes, characters + len(text)
            change = change or encoded.change
        file.write(np.asarray(closing_tokens(tokenizer), dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())
    if not characters:
        raise DataError(f"{source.path}: no text between {span.start:g} and {span.stop:g} of it")
    if not offsets[-1]:
        raise DataError(f"{source.path}: the tokenizer makes no token of {span.start:g} to {span.stop:g} of the text")
    np.save(folder / "offsets.npy", np.asarray(offsets, np.int64))
    tokens = offsets[-1] + len(closing_tokens(tokenizer))
    counts = {"documents": len(offsets) - 1, "tokens": tokens, "bytes": size, "characters": characters}
    boundaries = {"shared": shares_boundary(tokenizer), "ended": tokenizer.end_id is not None, "change": change}
    return {"source_path": source.path, "dtype": dtype, **counts, **boundaries}
