"""Records to documents: which fields of a record are read, as text or as token ids, and what makes it a refusal.

The readers of JSON, CSV and parquet (data/sources/readers.py) call it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data.errors import DataError, MissingFieldError, NotTextError
from data.sources.document import Document, Piece, Refusal, split_text

MAX_ID = int(np.iinfo(np.int64).max)


class Fields(NamedTuple):
    """What is read of a record: `field`, after `prompt` where that is set; text, or lists of token ids (`ids`).

    `rejected`: the field of the second half of a preference pair, which stands after the prompt, too.
    """

    field: str
    prompt: str | None = None
    ids: bool = False
    rejected: str | None = None

    @property
    def names(self) -> list[str]:
        """The fields that are read, each once."""
        return [name for name in (self.prompt, self.field, self.rejected) if name is not None]

    @property
    def halves(self) -> list[list[str]]:
        """The fields of each half of a document in their order; there is one half where no field is `rejected`."""
        before = [] if self.prompt is None else [self.prompt]
        return [[*before, name] for name in (self.field, self.rejected) if name is not None]


def read_record(record: Any, fields: Fields, origin: str, subject: str = "field {!r} is") -> Document | Refusal:
    """The document of a record: an object with the fields or, where one field alone is read, its bare value.

    `subject` begins the sentence about a value of the wrong type.
    """
    try:
        return Document(tuple(record_pieces(record, fields, origin, subject)), origin)
    except DataError as error:
        return Refusal(str(error), type(error))


def record_pieces(record: Any, fields: Fields, origin: str, subject: str) -> Iterator[Piece]:
    """The pieces of a record's fields. Raises DataError where one is missing, or holds what it should not."""
    for number, names in enumerate(fields.halves):
        pieces = [piece for name in names for piece in field_pieces(record, name, fields, origin, subject)]
        yield pieces[0]._replace(begins_half=number > 0)
        yield from pieces[1:]


def field_pieces(record: Any, name: str, fields: Fields, origin: str, subject: str) -> tuple[Piece, ...]:
    """The pieces of one field. Raises DataError where it is missing, or holds what it should not."""
    value = field_value(record, name, fields, origin)
    counted = name != fields.prompt
    if fields.ids:
        return (Piece(token_ids(value, f"{origin}: {subject.format(name)}", f"{origin}: field {name!r}"), counted),)
    return split_text(check_text(value, f"{origin}: {subject.format(name)}", name, origin), counted)


def field_value(record: Any, name: str, fields: Fields, origin: str) -> Any:
    """The value of a record's field; a bare value is that of the only field. Raises DataError where there is none."""
    if isinstance(record, dict):
        if name not in record:
            raise MissingFieldError(f"{origin}: no field {name!r}; there: {format_names(record)}")
        return record[name]
    if len(fields.names) == 1 and isinstance(record, list if fields.ids else str):
        return record
    bare = "" if len(fields.names) > 1 else ", or a list of token ids" if fields.ids else ", or a string"
    kind = type(record).__name__
    raise NotTextError(f"{origin}: no field {name!r} in a {kind}; a record is an object with that field{bare}")


def check_text(value: Any, subject: str, name: str, origin: str) -> str:
    """A field's value, which is text that UTF-8 can write. Raises DataError where it is not."""
    if not isinstance(value, str):
        remedy = "; the tokenizer kind ids reads token ids" if isinstance(value, list) else ""
        raise DataError(f"{subject} {type(value).__name__}, not text{remedy}")
    if surrogate := re.search("[\ud800-\udfff]", value):  # JSON can write it, UTF-8 can't
        raise DataError(
            f"{origin}: field {name!r} holds \\u{ord(surrogate[0]):04x}, half of a surrogate pair, at "
            f"offset {surrogate.start()}; write both halves or the character itself"
        )
    return value


def token_ids(value: Any, subject: str, place: str) -> np.ndarray:
    """A field's list, or array of integers, as int64 [t]. Raises DataError naming the first that is no token id."""
    if isinstance(value, np.ndarray):
        if not len(value) or (value.min() >= 0 and value.max() <= MAX_ID):
            return value.astype(np.int64)
        value = value.tolist()
    if not isinstance(value, list):
        raise DataError(f"{subject} {type(value).__name__}, not a list of token ids")
    if all(map(is_token_id, value)):
        return np.array(value, np.int64)
    index = next(i for i, number in enumerate(value) if not is_token_id(number))
    shown = textwrap.shorten(repr(value[index]), 40, placeholder=" …")
    raise DataError(f"{place} holds {shown} at index {index}; token ids are whole numbers from 0")


def is_token_id(number: Any) -> bool:
    return type(number) is int and 0 <= number <= MAX_ID  # True is an int, too, and no id


def format_names(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)), 200, placeholder=" …") or "none"
