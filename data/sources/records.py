"""Records to documents: which fields of a record are read, as text or as token ids, and what makes it a refusal.

The readers of JSON, CSV and parquet (data/sources/readers.py) call it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from data.errors import DataError, MissingFieldError, NotTextError
from data.sources.document import Document, Piece, Refusal, split_text
from data.sources.plain_values import plain_value
from data.tokenizers.special_tokens import BoundaryToken
from data.written_text import contents_of

MAX_ID = int(np.iinfo(np.int64).max)


class Writer(Protocol):
    """Makes a record's parts of text: data/templates.py. `fields`: the names of the fields that it reads where a record
    has them; `required`: those that each record must have."""

    fields: list[str]
    required: list[str]

    def parts(self, record: dict[str, Any]) -> Iterable[tuple[str, bool]]:
        """(text, whether it counts in the loss) of each part; a WrittenText may hold start and end tokens. Raises
        DataError, MissingFieldError for a field that is not there and can't be done without."""
        ...


class Fields(NamedTuple):
    """What is read of a record: `field`, after `prompt` where that is set; text, or lists of token ids (`ids`). With a
    `template`, what that makes of the fields that it reads, of any type.

    `rejected`: the field of a preference pair's second half, which is made as the first one, with this field in the
    place of `field`. `columns`: all the fields there are, where every record has the same."""

    field: str
    prompt: str | None = None
    ids: bool = False
    template: Writer | None = None
    rejected: str | None = None
    columns: tuple[str, ...] | None = None

    @property
    def names(self) -> list[str]:
        """The fields that are read, each once; of a table those that are there."""
        of_first = [self.prompt, self.field] if self.template is None else self.template.fields
        names = dict.fromkeys(name for name in (*of_first, self.rejected) if name is not None)
        return [name for name in names if self.columns is None or name in self.columns]

    @property
    def required(self) -> list[str]:
        """The fields that every record must have."""
        if self.template is None:
            return self.names
        return [*self.template.required, *([] if self.rejected is None else [self.field, self.rejected])]

    def of_table(self, columns: Iterable[str], place: str, kind: str) -> Fields:
        """What is read of records that have these columns. Raises MissingFieldError where none can be without one."""
        columns = tuple(columns)
        check_fields(self, columns, f"{place}: no {kind}")
        return self._replace(columns=columns)

    @property
    def takes_bare_values(self) -> bool:
        """Whether a record may be the value of its only field by itself."""
        return self.prompt is None and self.template is None and self.rejected is None


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
    values = field_values(record, fields, origin)
    there = record if fields.columns is None else fields.columns
    yield from half_pieces(values, fields, fields.field, origin, subject, there)
    if fields.rejected is not None:
        first, *others = half_pieces(values, fields, fields.rejected, origin, subject, there)
        yield first._replace(begins_half=True)
        yield from others


def half_pieces(
    values: dict[str, Any], fields: Fields, response: str, origin: str, subject: str, there: Iterable[str]
) -> Iterator[Piece]:
    """The pieces of a record's values, with those of the field `response` as the response. `there`: all its fields."""
    if fields.template is not None:
        values = values if response == fields.field else values | {fields.field: values[response]}
        yield from written_pieces(values, fields.template, origin, there)
        return
    for name in (fields.prompt, response):
        if name is None:
            continue
        value, counted = values[name], name != fields.prompt
        if fields.ids:
            yield Piece(token_ids(value, f"{origin}: {subject.format(name)}", f"{origin}: field {name!r}"), counted)
        else:
            yield from split_text(check_text(value, f"{origin}: {subject.format(name)}", name, origin), counted)


def written_pieces(values: dict[str, Any], template: Writer, origin: str, there: Iterable[str]) -> Iterator[Piece]:
    try:
        parts = list(template.parts(values))
    except MissingFieldError as error:
        raise MissingFieldError(f"{origin}: {error}; there: {format_names(there)}") from None
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    for text, counted in parts:
        for content in contents_of(check_text(text, origin, "template", origin)):
            yield from [Piece(content, counted)] if isinstance(content, BoundaryToken) else split_text(content, counted)


def field_values(record: Any, fields: Fields, origin: str) -> dict[str, Any]:
    """The values of a record's fields that are read; a bare value is that of the only field. A template has them as
    plain_value makes them. Raises DataError where one is missing."""
    if isinstance(record, dict):
        check_fields(fields, record, f"{origin}: no field")
        values = {name: record[name] for name in fields.names if name in record}
        if fields.template is None:
            return values
        return {name: plain_value(value, f"{origin}: field {name!r}") for name, value in values.items()}
    if fields.takes_bare_values and isinstance(record, list if fields.ids else str):
        return {fields.field: record}
    bare = "" if not fields.takes_bare_values else ", or a list of token ids" if fields.ids else ", or a string"
    name, kind = next(iter(fields.required or fields.names), fields.field), type(record).__name__
    raise NotTextError(f"{origin}: no field {name!r} in a {kind}; a record is an object with that field{bare}")


def check_fields(fields: Fields, there: Collection[str], beginning: str) -> None:
    """Raises MissingFieldError, a line with this `beginning`, where a required field is not among those there are, or
    none that are read is."""
    for name in fields.required:
        if name not in there:
            raise MissingFieldError(f"{beginning} {name!r}; there: {format_names(there)}")
    names = fields.names
    if names and not any(name in there for name in names):
        raise MissingFieldError(f"{beginning} {' or '.join(map(repr, names))}; there: {format_names(there)}")


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
