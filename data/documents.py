"""Documents as tokens: what stands before, between and behind them, and how many bytes of text their targets are.

data/store.py keeps them on disk, `skald evaluate --text` in memory; data/windows.py and data/pipeline.py read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.readers import Document
from data.tokenizer import Tokenizer


class Documents(NamedTuple):
    """Joined documents: `tokens` [n], and `offsets` [documents + 1]: where they start, and where the last one stops.

    Where the tokenizer has a start token each document starts with it. An end token of its own is the last one of each
    document. Where one token is both (`shared`) it stands once between two documents, and once behind the last one:
    the last target of the one, the first token of the next.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: int  # of the text that targets stand for
    shared: bool
    ended: bool  # the last target of each document is an end token, which stands for no text

    @property
    def bounds(self) -> np.ndarray:
        """int64 [documents, 2]: where each document's tokens start and stop, with the token that ends it."""
        return np.stack([self.offsets[:-1], self.offsets[1:] + self.shared], axis=1)


class Encoded(NamedTuple):
    """A document's tokens [t], the bytes of text that its targets stand for, and what of it does not come back."""

    tokens: list[int]
    bytes: int
    change: str | None


def shares_boundary(words: Tokenizer) -> bool:
    """Whether one token ends a document and starts the next one."""
    return words.start_id is not None and words.start_id == words.end_id


def closing_tokens(words: Tokenizer) -> list[int]:
    """What stands behind the last document, and belongs to none."""
    return [words.end_id] if shares_boundary(words) else []


def encode_document(words: Tokenizer, document: Document) -> Encoded:
    """Raises DataError naming the document, where it holds what the tokenizer does not know.

    Where the tokenizer changes the text, only bytes that come back are counted, or bits a byte would be too few. A
    first token is predicted from the start token; where there is none it is no target, and its bytes do not count.
    """
    try:
        ids = words.encode(document.text)
    except DataError as error:
        raise DataError(f"{document.origin}: {error}") from None
    back = words.decode(ids)
    size, change = utf8_length(document.text), None
    if back not in (document.text, f" {document.text}"):  # a space that some put in front is no change
        size, change = bytes_kept(document.text, back), f"{document.origin}: {first_difference(document.text, back)}"
    if words.start_id is None:
        size -= min(words.first_bytes(document.text), utf8_length(words.decode(ids[:1])))
    before = [] if words.start_id is None else [words.start_id]
    behind = [] if words.end_id is None or shares_boundary(words) else [words.end_id]
    return Encoded([*before, *ids, *behind], max(size, 0), change)


def utf8_length(text: str) -> int:
    return len(text.encode("utf-8"))


def bytes_kept(text: str, back: str) -> int:
    """Bytes of a text that came back, changed or not: without the white space that was lost, or put in."""
    size = place = back_place = 0
    while place < len(text) and back_place < len(back):
        one, other = text[place], back[back_place]
        if one.isspace() and not other.isspace():
            place += 1
        elif other.isspace() and not one.isspace():
            back_place += 1
        else:
            size += min(utf8_length(one), utf8_length(other))
            place, back_place = place + 1, back_place + 1
    return size


def first_difference(text: str, back: str) -> str:
    """Where a text and what came back of it part."""
    place = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    return f"{text[place : place + 12]!r} at offset {place} comes back as {back[place : place + 12]!r}"


def lossy_notice(change: str) -> str:
    """A line for whoever reads figures of such a text."""
    return f"the tokenizer does not keep the text as it is ({change}); bits a byte are of what it keeps"


def tokenize_documents(words: Tokenizer, documents: Iterable[Document]) -> tuple[Documents, str | None]:
    """All documents in memory, and the first change that the tokenizer makes to a text. Raises DataError."""
    encoded = [encode_document(words, document) for document in documents]
    offsets = np.cumsum([0, *(len(one.tokens) for one in encoded)])
    tokens = np.array([*(i for one in encoded for i in one.tokens), *closing_tokens(words)], np.int32)
    change = next((one.change for one in encoded if one.change), None)
    size = sum(one.bytes for one in encoded)
    return Documents(tokens, offsets, size, shares_boundary(words), words.end_id is not None), change
