"""Compressed files, decompressed while they are read: gzip, Zstandard, bzip2 and xz.

data/sources/stream_file.py reads by it. All members of a file are read, one after another, as `cat a.gz b.gz` makes
them; a member that is cut off, or followed by anything else than another one, is an error. (Python's own bz2 and lzma
files end without a word where the second member is damaged, zstandard's readers where a frame is cut off.)
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from data.errors import DataError

INPUT_BYTES = 4096  # decompressed at once: zlib makes at most 1032 times as many bytes of them, Zstandard 40,000 times
OUTPUT_BYTES = 1 << 20
REMEDY = "copy the file again from where it came from"


class Codec(NamedTuple):
    """A kind of compression: `decompressor` makes an object for one member, `expand` feeds it with bytes."""

    name: str
    decompressor: Callable[[], Any]
    expand: Callable[[Any, bytes], Iterator[bytes]]
    errors: tuple[type[Exception], ...]


def expand_whole(decompressor: Any, content: bytes) -> Iterator[bytes]:
    yield decompressor.decompress(content)


def expand_in_parts(decompressor: Any, content: bytes) -> Iterator[bytes]:
    """At most OUTPUT_BYTES at once: bzip2 can make a gigabyte of a kilobyte."""
    yield decompressor.decompress(content, OUTPUT_BYTES)
    while not (decompressor.eof or decompressor.needs_input):
        yield decompressor.decompress(b"", OUTPUT_BYTES)


def gzip_decompressor() -> Any:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: with gzip's header and checksum


def zstandard_codec() -> Codec:
    import zstandard  # not in Python before 3.14, and only such files need it

    return Codec("zstd", zstandard.ZstdDecompressor().decompressobj, expand_whole, (zstandard.ZstdError,))


CODECS: dict[str, Callable[[], Codec]] = {  # by the end of the name
    ".gz": lambda: Codec("gzip", gzip_decompressor, expand_whole, (zlib.error,)),
    ".zst": zstandard_codec,
    ".zstd": zstandard_codec,
    ".bz2": lambda: Codec("bzip2", bz2.BZ2Decompressor, expand_in_parts, (OSError,)),
    ".xz": lambda: Codec("xz", lzma.LZMADecompressor, expand_in_parts, (lzma.LZMAError,)),
}


class DecompressedStream(io.RawIOBase):
    """The decompressed bytes of `stream`. Raises DataError naming the file where it is damaged or cut off."""

    def __init__(self, stream: BinaryIO, name: str, codec: Codec):
        self.parts, self.rest = decompress(stream, name, codec), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.rest:
            part = next(self.parts, None)
            if part is None:
                return 0
            self.rest = memoryview(part)
        count = min(len(buffer), len(self.rest))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


def decompress(stream: BinaryIO, name: str, codec: Codec) -> Iterator[bytes]:
    """The content of every member, in parts, some of which may be empty."""
    decompressor, position, rest = None, 0, b""
    while content := rest or stream.read(INPUT_BYTES):
        position += len(content) - len(rest)
        if decompressor is None:
            rest = b""
            content = content.lstrip(b"\0")  # tapes and xz fill up with zeros behind a member
            if not content:
                continue
            decompressor = codec.decompressor()
        try:
            yield from codec.expand(decompressor, content)
        except codec.errors as error:
            raise DataError(f"{name}: {codec.name} data damaged before byte {position} ({error}); {REMEDY}") from None
        rest = decompressor.unused_data
        if decompressor.eof:
            decompressor = None
    if decompressor is not None:
        raise DataError(f"{name}: {codec.name} data cut off at byte {position}; {REMEDY}")
