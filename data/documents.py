"""Documents as token ids: the tokens before, between and behind them, and the bytes of text that their targets are.

data/store.py keeps them on disk, `skald evaluate --text` in memory; data/windows.py and data/pipeline.py read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.sources.document import Document
from data.tokenizers.tokenizer import Tokenizer


class Documents(NamedTuple):
    """Tokenized documents, joined into one array.

    `tokens` [n] holds the ids of all documents, one document after another. `offsets` [documents + 1] holds where each
    document starts, and where the last one stops. A document begins with the start token and ends with the end token,
    as far as the tokenizer has them. Where one token is both (`shared`) it stands once between two documents, as the
    last target of the first and the first token of the second, and once behind the last document.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: int  # of the text that the targets stand for
    shared: bool
    ended: bool  # the last target of each document is an end token, which stands for no text

    @property
    def bounds(self) -> np.ndarray:
        """int64 [documents, 2]: where the tokens of each document start and stop, its end token included."""
        return np.stack([self.offsets[:-1], self.offsets[1:] + self.shared], axis=1)


class EncodedDocument(NamedTuple):
    """One document: its token ids [t], the bytes of text that its targets stand for, and the first change to its text.

    `change` describes the first place where decoding gives back another text; None where it gives back the same.
    """

    tokens: list[int]
    bytes: int
    change: str | None


def shares_boundary(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer's start token and end token are the same."""
    return tokenizer.start_id is not None and tokenizer.start_id == tokenizer.end_id


def closing_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens behind the last document, which belong to no document: the shared start and end token, or none."""
    return [tokenizer.end_id] if shares_boundary(tokenizer) else []


def encode_document(tokenizer: Tokenizer, document: Document) -> EncodedDocument:
    """Encodes a document, adds its start and end token, and counts the bytes of text that its targets stand for.

    Where decoding gives back another text, only the bytes that come back are counted, or bits per byte would be too
    low. Without a start token the first token is predicted from nothing: it is no target, and its bytes do not count.
    Raises DataError naming the document where the tokenizer does not know a character of it.
    """
    text = document.text
    try:
        ids = tokenizer.encode(text)
    except DataError as error:
        raise DataError(f"{document.origin}: {error}") from None
    decoded = tokenizer.decode(ids)
    size, change = utf8_length(text), None
    if decoded not in (text, f" {text}"):  # some tokenizers put a space in front: that is no change
        size = preserved_bytes(text, decoded)
        shown = decoded if text.startswith(" ") else decoded.removeprefix(" ")
        change = f"{document.origin}: {first_difference(text, shown)}"
    if tokenizer.start_id is None:
        size -= min(tokenizer.first_token_bytes(text), utf8_length(tokenizer.decode(ids[:1])))
    prefix = [] if tokenizer.start_id is None else [tokenizer.start_id]
    suffix = [] if tokenizer.end_id is None or shares_boundary(tokenizer) else [tokenizer.end_id]
    return EncodedDocument([*prefix, *ids, *suffix], max(size, 0), change)


def utf8_length(text: str) -> int:
    return len(text.encode("utf-8"))


def preserved_bytes(text: str, decoded: str) -> int:
    """Bytes of a text that decoding gave back: changed characters count, lost or added white space does not."""
    size = index = decoded_index = 0
    while index < len(text) and decoded_index < len(decoded):
        character, decoded_character = text[index], decoded[decoded_index]
        if character.isspace() and not decoded_character.isspace():
            index += 1
        elif decoded_character.isspace() and not character.isspace():
            decoded_index += 1
        else:
            size += min(utf8_length(character), utf8_length(decoded_character))
            index, decoded_index = index + 1, decoded_index + 1
    return size


def first_difference(text: str, decoded: str) -> str:
    """Describes the first place where a text and what decoding gave back differ."""
    index = next(
        (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded))
    )
    return f"{text[index : index + 12]!r} at offset {index} comes back as {decoded[index : index + 12]!r}"


def lossy_notice(change: str) -> str:
    """A line for the person who reads scores of a text that the tokenizer changes."""
    return f"the tokenizer does not keep the text as it is ({change}); bits a byte are of what it keeps"


def tokenize_documents(tokenizer: Tokenizer, documents: Iterable[Document]) -> tuple[Documents, str | None]:
    """All documents in memory, and the first change that the tokenizer makes to a text. Raises DataError."""
    encoded = [encode_document(tokenizer, document) for document in documents]
    offsets = np.cumsum([0, *(len(document.tokens) for document in encoded)])
    tokens = np.array([*(i for document in encoded for i in document.tokens), *closing_tokens(tokenizer)], np.int32)
    change = next((document.change for document in encoded if document.change), None)
    size = sum(document.bytes for document in encoded)
    return Documents(tokens, offsets, size, shares_boundary(tokenizer), tokenizer.end_id is not None), change
