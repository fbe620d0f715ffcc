"""A file of bytes as a file of a source: its documents and its digest, from one pass; local and remote ones alike.

data/sources/local_file.py and data/sources/remote_file.py open its bytes.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from data.errors import DataError, NotTextError
from data.sources.compression import CODECS, DecompressedStream
from data.sources.containers import detect_by_content, detect_by_name, refuse_container
from data.sources.document import Document, Refusal
from data.sources.ending import Ending
from data.sources.hashing import PART_BYTES, HashingStream
from data.sources.readers import RANDOM_ACCESS, READERS
from data.sources.records import Fields
from data.sources.text import read_text


class StreamFile(ABC):
    """A file of bytes (SourceFile). `ending` says how it is read: `detect_ending` of its name."""

    __slots__ = ("ending", "fields", "name", "sha256", "size", "stamp")

    def __init__(self, name: str, ending: Ending, size: int, stamp: list, fields: Fields):
        self.name, self.ending, self.size, self.stamp, self.fields = name, ending, size, stamp, fields
        self.sha256: str | None = None  # once it is known

    @abstractmethod
    def open(self) -> BinaryIO:
        """A stream of the file's bytes from their beginning, which can seek. Raises DataError where there is none."""

    @abstractmethod
    def errors(self) -> AbstractContextManager:
        """A context that turns errors of reading into a DataError that names the file."""

    @property
    def format(self) -> str:
        extension = self.ending.extension if self.ending.extension in READERS else ""
        return extension + self.ending.compression

    def documents(self) -> Iterator[Document | Refusal]:
        """Everything in the file, in order. Raises DataError where the file as a whole can't be read."""
        extension, compression = self.ending
        refuse_container(self.name, detect_by_name(self.name) or detect_by_name(self.name.removesuffix(compression)))
        file = self.open()
        if extension in RANDOM_ACCESS:
            with file, self.errors():
                yield from self.read_random_access(file)
            return
        hashing, stream = self.unpack(file)
        head = stream.peek()
        if not (head or self.size):
            raise DataError(f"{self.name}: no text, the file is empty")
        refuse_container(self.name, detect_by_content(head))
        yield from READERS.get(extension, read_text)(stream, self.name, self.fields)
        self.sha256 = hashing.digest_of_all()
        file.close()  # by `with` it would be closed for a reader, too, who takes one document and drops the rest

    def unpack(self, file: BinaryIO) -> tuple[HashingStream, io.BufferedReader]:
        """The stream that hashes what is read of `file`, and the one of its content, unpacked."""
        hashing = HashingStream(file, self.errors)
        stream = io.BufferedReader(hashing, PART_BYTES)
        if codec := CODECS.get(self.ending.compression):
            stream = io.BufferedReader(DecompressedStream(stream, self.name, codec()), PART_BYTES)
        return hashing, stream

    def read_random_access(self, file: BinaryIO) -> Iterator[Document | Refusal]:
        """Everything in a file whose bytes are not read in their order; `digest` reads it once more, in order."""
        if self.ending.compression:
            raise NotTextError(
                f"{self.name}: a parquet file that is compressed as a whole; unpack it (parquet compresses by itself)"
            )
        yield from READERS[self.ending.extension](file, self.name, self.fields)

    def digest(self) -> str:
        """sha256 of the content, in hex. Costs nothing once `documents` was read to its end, but for parquet."""
        if self.sha256 is None:
            with self.open() as file:
                self.sha256 = HashingStream(file, self.errors).digest_of_all()
        return self.sha256
