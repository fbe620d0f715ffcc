"""A file of bytes as a file of a source: its documents and its digest, from one pass; local and remote ones alike.

data/sources/local_file.py and data/sources/remote_file.py open its bytes.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from data.errors import DataError
from data.sources.containers import refuse_container
from data.sources.document import Document, Refusal
from data.sources.hashing import PART_BYTES, HashingStream
from data.sources.readers import RANDOM_ACCESS, READERS
from data.sources.records import Fields
from data.sources.text import read_text


class StreamFile(ABC):
    """A file of bytes (SourceFile). `extension` says how it is read."""

    __slots__ = ("extension", "fields", "name", "sha256", "size", "stamp")

    def __init__(self, name: str, extension: str, size: int, stamp: list, fields: Fields):
        self.name, self.extension, self.size, self.stamp, self.fields = name, extension, size, stamp, fields
        self.sha256: str | None = None

    @abstractmethod
    def open(self) -> BinaryIO:
        """A stream of the file's bytes from their beginning, which can seek."""

    @abstractmethod
    def errors(self) -> AbstractContextManager:
        """A context that turns errors of reading into a DataError that names the file."""

    @property
    def format(self) -> str:
        return self.extension if self.extension in READERS else ""

    def documents(self) -> Iterator[Document | Refusal]:
        """Everything in the file, in order. Raises DataError where the file as a whole can't be read."""
        reader = READERS.get(self.extension, read_text)
        with self.errors(), self.open() as file:
            if self.extension in RANDOM_ACCESS:  # bytes come out of order: `digest` reads the file once more
                yield from reader(file, self.name, self.fields)
                return
            hashing = HashingStream(file, self.errors)
            stream = io.BufferedReader(hashing, PART_BYTES)
            head = stream.peek()
            if not (head or self.size):
                raise DataError(f"{self.name}: no text, the file is empty")
            refuse_container(self.name, head)
            yield from reader(stream, self.name, self.fields)
            self.sha256 = hashing.digest_of_all()

    def digest(self) -> str:
        """sha256 of the content, in hex. Costs nothing once `documents` was read to its end, but for parquet."""
        if self.sha256 is None:
            with self.errors(), self.open() as file:
                self.sha256 = HashingStream(file, self.errors).digest_of_all()
        return self.sha256
