"""A stream that hashes what is read from it, so that a file is read once. data/sources/stream_file.py reads by it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO

PART_BYTES = 1 << 20


class HashingStream(io.RawIOBase):
    """The bytes of another stream. `errors` makes the context in which they are read: it names the file in errors."""

    def __init__(self, stream: BinaryIO, errors: Callable[[], AbstractContextManager]):
        self.stream, self.errors, self.sha256 = stream, errors, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with self.errors():
            count = self.stream.readinto(buffer)
        self.sha256.update(memoryview(buffer)[:count])
        return count

    def digest_of_all(self) -> str:
        """sha256 of the whole stream, in hex. Reads what has not been read yet."""
        part = bytearray(PART_BYTES)
        while self.readinto(part):
            pass
        return self.sha256.hexdigest()
