"""Plain text: a whole file as one document, decoded while it is read. data/sources/readers.py picks this reader."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from data.errors import NotTextError
from data.sources.document import PIECE_LENGTH, Document, Piece
from data.sources.records import Fields

BYTE_ORDER_MARK = "\ufeff"  # some editors put it first; it is no text


def read_text(stream: BinaryIO, name: str, fields: Fields) -> Iterator[Document]:
    """The whole file as one document, its line ends as they are; none where the file is empty.

    Its pieces are read when they are asked for. Raises NotTextError where the file is no text in UTF-8.
    """
    if fields.ids or not fields.takes_bare_values:
        wanted = "token ids" if fields.ids else f"fields {' and '.join(map(repr, fields.names))}"
        raise NotTextError(f"{name}: a text file has no {wanted}; write them as JSON lines or parquet")
    pieces = text_pieces(stream, name)
    first = next(pieces, None)  # a file that is no text is mostly found out here, before anything is made of it
    if first is not None:
        yield Document(itertools.chain([first], pieces), name)


def text_pieces(stream: BinaryIO, name: str) -> Iterator[Piece]:
    """The text in pieces of at most PIECE_LENGTH characters. Raises NotTextError naming the first byte that is no text.

    A byte order mark at the beginning is no part of the text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()  # utf-8-sig would count bytes from after the mark
    offset = 0
    while True:
        content = stream.read(PIECE_LENGTH)  # a character has at least one byte
        if (zero := content.find(0)) >= 0:
            raise NotTextError(
                f"{name}: a zero byte at {offset + zero}, as in binary files and UTF-16; convert it to UTF-8 text"
            )
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise not_utf8(error, name, offset - pending) from None
        if not content:
            return
        yield Piece(text if offset else text.removeprefix(BYTE_ORDER_MARK), continues=offset > 0)
        offset += len(content)


def decode_utf8(content: bytes, origin: str) -> str:
    """The bytes as text. Raises NotTextError naming `origin` and the first byte that is not UTF-8."""
    try:
        return content.decode("utf-8")  # utf-8-sig would count the bytes of an error from after the mark
    except UnicodeDecodeError as error:
        raise not_utf8(error, origin) from None


def not_utf8(error: UnicodeDecodeError, origin: str, offset: int = 0) -> NotTextError:
    """The error for bytes that are not UTF-8; those that were decoded begin at `offset` of `origin`."""
    return NotTextError(
        f"{origin}: not UTF-8 at byte {offset + error.start} (0x{error.object[error.start]:02x}); "
        "convert it, for example with iconv -f ENCODING -t utf-8"
    )
