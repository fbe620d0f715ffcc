"""Reads the documents of a source: which files it names, and how each is read. data/store.py tokenizes them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.config import Source
from data.errors import DataError, MissingFieldError, NotTextError
from data.sources import containers
from data.sources.document import Document, Refusal, SourceFile
from data.sources.files import expand_home, list_files, translate_os_errors
from data.sources.readers import READERS, read_parquet, read_text

EMBEDDED = {"embedded:shakespeare": Path(__file__).parents[1] / "corpora" / "tinyshakespeare.txt"}
FIELD_REMEDY = "set the source's field (data.source.field, or data.validation_source.field)"


def read_documents(source: Source, field_remedy: str = FIELD_REMEDY) -> Iterator[Document]:
    """Every document of a source, in the order of its files. Raises DataError naming the file and the place in it.

    `field_remedy` is added to the message where records lack the source's field: how to name another one.
    """
    files = source_files(source)
    for path in files:
        try:
            with translate_os_errors(path):
                yield from read_file(path, source.field)
        except NotTextError as error:
            remedies = [field_remedy] if isinstance(error, MissingFieldError) else []
            raise DataError("; ".join([str(error), *remedies, *suggest_glob(path, source, files)])) from None


class LocalFile:
    """A file on this machine (SourceFile)."""

    def __init__(self, path: Path, source: Source):
        self.path, self.field, self.name = path, source.field, str(path)
        with translate_os_errors(path):
            status = path.stat()
        self.size, self.stamp = status.st_size, [status.st_size, status.st_mtime_ns]

    def documents(self) -> Iterator[Document | Refusal]:
        with translate_os_errors(self.path):
            yield from read_file(self.path, self.field)

    def digest(self) -> str:
        with translate_os_errors(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_source(source: Source, ids: bool = False) -> list[SourceFile]:
    """The files of a source, in a fixed order. Raises DataError where there are none."""
    del ids
    return [LocalFile(path, source) for path in source_files(source)]


def source_files(source: Source) -> list[Path]:
    """The files of a source, in a fixed order. Raises DataError where there are none."""
    if source.path in EMBEDDED:
        return [EMBEDDED[source.path]]
    if not source.path:
        raise DataError(f"a source's path is empty; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    if ":" in source.path.split("/")[0]:
        raise DataError(f"{source.path}: unknown kind of source; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    return list_files(source.path)


def read_file(path: Path, field: str) -> Iterator[Document]:
    reader = READERS.get(extension(path), read_text)
    if reader is not read_parquet:  # it recognises its own files
        containers.refuse_container(path)
    return reader(path, field)


def extension(path: Path) -> str:
    """A file's extension in lower case, which says how it is read; of a link without one, its target's."""
    return (path.suffix or Path(os.path.realpath(path)).suffix).lower()


def suggest_glob(path: Path, source: Source, files: list[Path]) -> list[str]:
    """A remedy for an error in `path`: a glob of the commonest other extension, where the source has another one."""
    suffixes = Counter(
        p.suffix for p in files if p.suffix and extension(p) != extension(path) and not containers.detect_by_name(p)
    )
    if not suffixes:
        return []
    example = ""
    if expand_home(source.path).is_dir():
        suffix = suffixes.most_common(1)[0][0]
        example = f", as {Path(glob.escape(source.path), '**', '*' + glob.escape(suffix))}"
    return [f"to leave such files out, name a glob of others{example}"]


def combine_fingerprint(source: Source, files: list[SourceFile], digests: list[str]) -> str:
    digest = hashlib.sha256(source.field.encode())
    for file, one in zip(files, digests, strict=True):
        digest.update(bytes.fromhex(one))
        digest.update(extension(file.path).encode() if extension(file.path) in READERS else b"")
    return digest.hexdigest()


def fingerprint(source: Source) -> str:
    """sha256 of a source: of its field, and of the content of every file, in order, and how each is read."""
    digest = hashlib.sha256(source.field.encode())
    for path in source_files(source):
        with translate_os_errors(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(extension(path).encode() if extension(path) in READERS else b"")
    return digest.hexdigest()
