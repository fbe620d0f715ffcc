"""What passes between the reading, the encoding and the writing of a store: segments of documents, and marks.

data/store/build.py reads and writes, data/store/workers.py encodes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data.documents import encode_text, first_token_bytes, what_is_before
from data.errors import DataError
from data.sources.document import Document, Piece
from data.tokenizers.segments import segments as text_segments
from data.tokenizers.special_tokens import BoundaryToken
from data.tokenizers.tokenizer import Tokenizer, check_ids


class Segment(NamedTuple):
    """A part of a document that is encoded at once: text, or token ids.

    `begins_piece`: a piece begins with it. `continued`: it is the rest of a longer text. `counted` and `begins_half`:
    as in Piece. `before`: what stands before it in its document, or its half of one (data/documents.py).
    `is_boundary`: it is a start or end token, which stands for no text.
    """

    content: str | np.ndarray
    origin: str
    begins_piece: bool
    continued: bool
    counted: bool
    begins_half: bool = False
    before: str | BoundaryToken | None = None
    is_boundary: bool = False


class DocumentEnd(NamedTuple):
    """The document of the segments before it is complete, or refused for a `reason`. `key`: a hash of its content."""

    key: int
    reason: str | None = None


class FileEnd(NamedTuple):
    """A file of `size` bytes was read to its end; `digest` is that of its content."""

    digest: str
    size: int


Event = Segment | DocumentEnd | FileEnd


class EncodedSegments(NamedTuple):
    """The segments of a batch, encoded: all their ids joined, and for each one the number of ids and bytes of text.

    `first_bytes` are those of a segment's first token. `errors`: why segments can't be encoded, by number. `change`:
    the first change that the tokenizer made to a text.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    bytes: np.ndarray
    first_bytes: np.ndarray
    errors: dict[int, str]
    change: str | None


def document_events(tokenizer: Tokenizer, document: Document) -> Iterator[Event]:
    """A document's segments and its end. Where it can't be cut into segments, its end says why."""
    read = ReadContent(tokenizer)
    try:
        for piece in joined_pieces(document):
            read.begin_piece(piece)
            yield from piece_segments(tokenizer, piece, document.origin, read)
    except DataError as error:
        yield DocumentEnd(0, str(error))
    else:
        yield DocumentEnd(read.key)


class LongPiece(NamedTuple):
    """A piece in parts: `parts` yields its text, or its ids."""

    parts: Iterator
    counted: bool
    begins_half: bool


def joined_pieces(document: Document) -> Iterator[LongPiece]:
    """The pieces of a document, those that continue another one joined to it. Each must be read before the next."""
    pieces = iter(document.pieces)
    upcoming: list[Piece] = [piece] if (piece := next(pieces, None)) else []

    def parts() -> Iterator:
        yield upcoming.pop().content
        for piece in pieces:
            if not piece.continues:
                upcoming.append(piece)
                return
            yield piece.content

    while upcoming:
        yield LongPiece(parts(), upcoming[0].counted, upcoming[0].begins_half)


class ReadContent:
    """What was read of a document: a hash of it, and what stands before the text that comes next."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.hashed, self.before = tokenizer, hashlib.blake2b(digest_size=8), None

    def begin_piece(self, piece: LongPiece) -> None:
        self.hashed.update(b"\xff" if piece.counted else b"\xfe")  # bytes that no text holds: they part the pieces
        self.before = None if piece.begins_half else self.before

    def texts(self, parts: Iterable[str]) -> Iterator[str]:
        for part in parts:
            self.hashed.update(part.encode("utf-8"))
            self.before = what_is_before(part, self.before, self.tokenizer)
            yield part

    def ids(self, ids: np.ndarray) -> np.ndarray:
        self.hashed.update(np.ascontiguousarray(ids, "<i8").tobytes())
        return ids

    def boundary(self, token: BoundaryToken) -> np.ndarray:
        """The id of a start or end token, int64 [1], or [0] where the tokenizer has none."""
        self.hashed.update(b"\xfd" if token is BoundaryToken.START else b"\xfc")
        self.before = what_is_before(token, self.before, self.tokenizer)
        id_ = token.id_of(self.tokenizer)
        return np.array([] if id_ is None else [id_], np.int64)

    @property
    def key(self) -> int:
        return int.from_bytes(self.hashed.digest(), "little")


def piece_segments(tokenizer: Tokenizer, piece: LongPiece, origin: str, read: ReadContent) -> Iterator[Segment]:
    """The segments of a piece; `read` takes its content in."""
    first, offset, before = next(piece.parts), 0, read.before
    parts = itertools.chain([first], piece.parts)
    if isinstance(first, str):
        texts = text_segments(tokenizer, read.texts(parts), origin)
        for text, continued in itertools.chain([next(texts, ("", False))], texts):  # an empty piece is one, too
            place = f"{origin} from offset {offset}" if offset else origin  # errors count from there
            begins_half = piece.begins_half and not continued
            yield Segment(text, place, not continued, continued, piece.counted, begins_half, before)
            offset += len(text)
        return
    for number, content in enumerate(parts):
        is_boundary = isinstance(content, BoundaryToken)
        ids = read.boundary(content) if is_boundary else read.ids(content)
        begins_half = piece.begins_half and not number
        yield Segment(ids, origin, not number, bool(number), piece.counted, begins_half, is_boundary=is_boundary)


def encode_segments(tokenizer: Tokenizer, segments: list[Segment]) -> EncodedSegments:
    """Encodes the segments of a batch."""
    count = len(segments)
    tokens, bytes_, first_bytes = [], np.zeros(count, np.int64), np.zeros(count, np.int64)
    errors, change = {}, None
    for number, segment in enumerate(segments):
        try:
            if not isinstance(segment.content, str):
                tokens.append(check_ids(tokenizer, segment.content, segment.origin))
                bytes_[number] = 0 if segment.is_boundary else len(segment.content)
                first_bytes[number] = min(1, bytes_[number])
                continue
            encoded = encode_text(tokenizer, segment.content, segment.origin, segment.continued, segment.before)
        except DataError as error:
            errors[number] = str(error)
            tokens.append(np.zeros(0, np.int32))
            continue
        tokens.append(encoded.tokens)
        bytes_[number], change = encoded.bytes, change or encoded.change
        if not segment.continued and tokenizer.start_id in (None, *encoded.tokens[:1].tolist()):
            first_bytes[number] = first_token_bytes(tokenizer, encoded, segment.content)
    lengths = np.array([len(ids) for ids in tokens], np.int64)
    joined = np.concatenate(tokens) if tokens else np.zeros(0, np.int32)
    return EncodedSegments(joined, lengths, bytes_, first_bytes, errors, change)
