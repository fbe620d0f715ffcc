"""Documents as token ids: where each starts and stops, which targets count, and the bytes of text that they stand for.

data/store/ keeps them on disk; data/packing.py and data/windows.py cut rows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.tokenizers.special_tokens import BoundaryToken
from data.tokenizers.tokenizer import Tokenizer

KEPT = 64  # characters of a text that matter for how the next one is encoded, at most: an added token at its end
CHUNK = 1 << 20  # documents or tokens looked at at a time: what is in memory does not grow with the corpus


class Bounds(NamedTuple):
    """Where documents start and stop in the joined tokens; `ended` where the last token is an end token."""

    starts: np.ndarray  # int64
    stops: np.ndarray  # int64
    ended: np.ndarray  # bool

    @property
    def targets(self) -> np.ndarray:
        """How many tokens of each document are predicted: all but the first."""
        return np.maximum(self.stops - self.starts - 1, 0)


class Pieces(NamedTuple):
    """The borders of pieces: `starts` int64 [pieces], the token at which each begins, and whether its tokens count."""

    starts: np.ndarray
    counted: np.ndarray


@dataclass(frozen=True)
class Documents:
    """A choice of tokenized documents, numbered from 0, over arrays that may lie on disk.

    `tokens` holds the ids of all documents of a store, one document after another, and `offsets` [documents + 1] where
    each starts; `sizes` [documents] are the bytes of text that a document's targets stand for. A document begins with
    the start token and ends with the end token, as far as the tokenizer has them; `ended` says whether it has one.
    `pieces` is None where every token counts.

    `index` are the numbers of the chosen documents in the store; None: all of them. What lies outside the tokens
    `first` to `last` is left out: a document at such a border is cut.

    Of preference pairs `halves` [documents] says where the rejected half of each begins, the chosen one being before
    it; None where documents are no pairs. `half` chooses one of them, 0 the chosen and 1 the rejected: documents then
    are these halves alone. None: both, one after another.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    ended: bool
    pieces: Pieces | None = None
    index: np.ndarray | None = None
    first: int = 0
    last: int | None = None
    halves: np.ndarray | None = None
    half: int | None = None

    @property
    def stop(self) -> int:
        return int(self.offsets[-1]) if self.last is None else self.last

    @property
    def first_document(self) -> int:
        """The document of the store that holds token `first`; where all are chosen, number 0."""
        return int(np.searchsorted(self.offsets, self.first, side="right")) - 1 if self.first else 0

    def __len__(self) -> int:
        if self.index is not None:
            return len(self.index)
        end = np.searchsorted(self.offsets[:-1], self.stop) if self.last is not None else len(self.offsets) - 1
        return max(0, int(end) - self.first_document)

    def in_store(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers that the store gives these documents. int64 [n] -> int64 [n]."""
        return self.first_document + numbers if self.index is None else np.asarray(self.index[numbers], np.int64)

    def bounds(self, numbers: np.ndarray) -> Bounds:
        """Where the documents of these numbers start and stop in `tokens`. int64 [n]."""
        stored = self.in_store(numbers)
        starts, stops = np.asarray(self.offsets[stored]), np.asarray(self.offsets[stored + 1])
        if self.half is not None:
            borders = np.asarray(self.halves[stored])
            starts, stops = (starts, borders) if self.half == 0 else (borders, stops)
        ended = (stops <= self.stop) & self.ended
        return Bounds(np.maximum(starts, self.first), np.minimum(stops, self.stop), ended)

    def chunks(self) -> Iterator[np.ndarray]:
        """All numbers, a bounded part at a time."""
        for start in range(0, len(self), CHUNK):
            yield np.arange(start, min(start + CHUNK, len(self)))

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first of each document."""
        return sum(int(self.bounds(numbers).targets.sum()) for numbers in self.chunks())

    @property
    def without_target(self) -> int:
        """Documents of a single token or none: nothing of them is predicted."""
        return sum(int((self.bounds(numbers).targets == 0).sum()) for numbers in self.chunks())

    def counts(self, targets: np.ndarray) -> np.ndarray:
        """Whether the tokens at these places count in the loss: bool, in the shape of `targets`."""
        if self.pieces is None:
            return np.ones(targets.shape, bool)
        return self.pieces.counted[np.searchsorted(self.pieces.starts, targets, side="right") - 1]


class Encoded(NamedTuple):
    """A text that was tokenized: its ids [t], the bytes that came back, and the first change to the text.

    `change` describes the first place where decoding gives back another text; None where it gives back the same.
    """

    tokens: np.ndarray
    bytes: int
    change: str | None


def what_is_before(content: str | BoundaryToken, before: str | BoundaryToken | None, tokenizer: Tokenizer):
    """What stands before the text behind `content`, which itself stands behind `before`; None: nothing, as before the
    first text of a document. A boundary token that the tokenizer lacks is nothing, and so is an empty text."""
    if isinstance(content, BoundaryToken):
        return before if content.id_of(tokenizer) is None else content
    return content[-KEPT:] or before


def encode_contents(
    tokenizer: Tokenizer, contents: Iterable[str | BoundaryToken], before: str | BoundaryToken | None = None
) -> list[int]:
    """The ids of texts of one document, each encoded by itself as a store has them, and of tokens between them.

    Raises DataError for a character that the tokenizer does not know.
    """
    ids = []
    for content in contents:
        if isinstance(content, BoundaryToken):
            ids += [id_ for id_ in (content.id_of(tokenizer),) if id_ is not None]
        else:
            ids += tokenizer.encode(content) if before is None else tokenizer.encode_behind(content, before).tolist()
        before = what_is_before(content, before, tokenizer)
    return ids


def encode_text(
    tokenizer: Tokenizer,
    text: str,
    origin: str,
    continued: bool = False,
    before: str | BoundaryToken | None = None,
) -> Encoded:
    """Encodes a text, or with `continued` the rest of one, or one `before` which others stand in its document, and sees
    what of it comes back.

    Where decoding gives back another text, only the bytes that come back are counted, or bits per byte would be too
    low. Raises DataError naming the document where the tokenizer does not know a character of it.
    """
    try:
        behind = before is not None and not continued
        ids = tokenizer.encode_behind(text, before) if behind else tokenizer.encode_array(text, continued)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    size = utf8_length(text)
    if tokenizer.lossless:
        return Encoded(ids, size, None)
    decoded = tokenizer.decode(ids.tolist())
    is_first = before is None and not continued
    if decoded in (text, f" {text}") or (not is_first and f" {decoded}" == text):  # a space that some put in front
        return Encoded(ids, size, None)
    shown = decoded if text.startswith(" ") else decoded.removeprefix(" ")
    return Encoded(ids, preserved_bytes(text, decoded), f"{origin}: {first_difference(text, shown)}")


def first_token_bytes(tokenizer: Tokenizer, encoded: Encoded, text: str) -> int:
    """Bytes of a document's first token, which is no target where no start token stands before it."""
    return min(tokenizer.first_token_bytes(text), utf8_length(tokenizer.decode(encoded.tokens[:1].tolist())))


def utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


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
