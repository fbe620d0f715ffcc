"""Lines of a stream, none of them longer than a record may be. Readers of JSON lines and of CSV call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

MAX_RECORD_BYTES = 64 << 20  # of a JSON line, a CSV row or a parquet cell: a novel has 1 MB, a long one 5
MAX_RECORD_NAME = f"{MAX_RECORD_BYTES >> 20} MiB"
PART_BYTES = 1 << 20


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line with its end). Of a line that is too long, its first MAX_RECORD_BYTES + 1 bytes.

    The rest of such a line is left in the stream: `rest_of_line` takes it out.
    """
    number = 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        yield number, line


def is_too_long(size: int) -> bool:
    """Whether a record of `size` bytes, or characters, is refused."""
    return size > MAX_RECORD_BYTES


def rest_of_line(stream: BinaryIO, line: bytes) -> Iterator[bytes]:
    """The parts of a line that come after `line`, its beginning, up to its end."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(PART_BYTES)
        yield line
