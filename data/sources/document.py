"""What every source yields: documents, made of pieces, and refusals; and the protocol of a source's files.

data/sources/source.py opens sources, data/store/ tokenizes what they yield.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from data.errors import DataError
from data.tokenizers.special_tokens import BoundaryToken

PIECE_LENGTH = 1 << 20  # characters of text in a piece, at most: a long text is never tokenized in one go


class Piece(NamedTuple):
    """A part of a document that is tokenized by itself: its text, its token ids int [t], or a start or end token.

    `counted`: its tokens count in the loss, as those of a prompt do not. `continues`: the text goes on where that of
    the piece before stopped, so both are tokenized as one; a long text comes in such parts. `begins_half`: the second
    half of a preference pair begins with it, with a start token, after the end token of the first.
    """

    content: str | np.ndarray | BoundaryToken
    counted: bool = True
    continues: bool = False
    begins_half: bool = False


class Document(NamedTuple):
    """A document: its pieces in order, which are read once at most and before the next document, and where it stands.

    `origin` is "file", "file:line" or "file#row", rows from 0.
    """

    pieces: Iterable[Piece]
    origin: str

    @property
    def text(self) -> str:
        """The text of all pieces that are text, joined. Reads the pieces."""
        return "".join(piece.content for piece in self.pieces if isinstance(piece.content, str))


class Refusal(NamedTuple):
    """A record that is no document: `reason` is a line that names its place and what would work.

    `error` is the class of the error that it becomes where no record may be left out.
    """

    reason: str
    error: type[DataError] = DataError


class SourceFile(Protocol):
    """One file of a source, or one data set that is read as a whole.

    `name` is shown to people. `stamp` is a JSON value that differs once the file was changed: its size and its time of
    change, found without reading it. `size`: bytes to read, for progress. `format` says how the content is read, as
    the end of a name does (".jsonl.gz"); it is empty for plain text.
    """

    name: str
    stamp: list
    size: int
    format: str

    def documents(self) -> Iterator[Document | Refusal]:
        """Everything in the file, in order. Raises DataError where the file as a whole can't be read."""
        ...

    def digest(self) -> str:
        """sha256 of the content, in hex. Costs nothing once `documents` was read to its end."""
        ...


def text_document(text: str, origin: str) -> Document:
    """A document of one text."""
    return Document(split_text(text), origin)


def split_text(text: str, counted: bool = True) -> tuple[Piece, ...]:
    """A text as pieces of at most PIECE_LENGTH characters; an empty one as one empty piece."""
    starts = range(0, len(text) or 1, PIECE_LENGTH)
    return tuple(Piece(text[start : start + PIECE_LENGTH], counted, start > 0) for start in starts)
