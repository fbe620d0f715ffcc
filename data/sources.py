"""Documents from files: which a source names, how each is read. data/store.py tokenizes what comes out here."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data import containers
from data.config import Source
from data.errors import DataError, NoField, NotText
from data.files import expand_home, list_files, reading_errors
from data.readers import READERS, Document, read_parquet, read_text

EMBEDDED = {"embedded:shakespeare": Path(__file__).parent / "corpora" / "tinyshakespeare.txt"}
ANOTHER_FIELD = "set the source's field (data.source.field, or data.validation_source.field)"


def read_documents(source: Source, another_field: str = ANOTHER_FIELD) -> Iterator[Document]:
    """Every document of a source, in file order. Raises DataError naming file and place.

    `another_field` is what to do where records lack the source's field, as whoever reads the error may do it.
    """
    found = source_files(source)
    for path in found:
        try:
            with reading_errors(path):
                yield from read_file(path, source.field)
        except NotText as error:
            remedies = [another_field] if isinstance(error, NoField) else []
            raise DataError("; ".join([str(error), *remedies, *suggest_glob(path, source, found)])) from None


def source_files(source: Source) -> list[Path]:
    """The files of a source, in a fixed order. Raises DataError where there is none."""
    if source.path in EMBEDDED:
        return [EMBEDDED[source.path]]
    if not source.path:
        raise DataError(f"a source's path is empty; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    if ":" in source.path.split("/")[0]:
        raise DataError(f"{source.path}: unknown kind of source; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    return list_files(source.path)


def read_file(path: Path, field: str) -> Iterator[Document]:
    reader = READERS.get(extension(path), read_text)
    if reader is not read_parquet:  # which knows its own files
        containers.refuse_container(path)
    return reader(path, field)


def extension(path: Path) -> str:
    """What says how a file is read, in small letters; of a link that has none, its target's."""
    return (path.suffix or Path(os.path.realpath(path)).suffix).lower()


def suggest_glob(path: Path, source: Source, found: list[Path]) -> list[str]:
    """How to name a source's other files and not this kind: the commonest of them, where there is another."""
    kinds = Counter(
        p.suffix for p in found if p.suffix and extension(p) != extension(path) and not containers.by_name(p)
    )
    if not kinds:
        return []
    example = ""
    if expand_home(source.path).is_dir():
        kind = kinds.most_common(1)[0][0]
        example = f", as {Path(glob.escape(source.path), '**', '*' + glob.escape(kind))}"
    return [f"to leave such files out, name a glob of others{example}"]


def fingerprint(source: Source) -> str:
    """sha256 over the content of every file, in order, how each is read, and the field read from them."""
    digest = hashlib.sha256(source.field.encode())
    for path in source_files(source):
        with reading_errors(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(extension(path).encode() if extension(path) in READERS else b"")
    return digest.hexdigest()
