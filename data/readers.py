"""A file to its documents, one reader a format: text, JSON lines, JSON, CSV, parquet. data/sources.py picks one."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError, NoField, NotText

MARK = "\ufeff"  # some editors put it first; it is no text
LONGEST = 2**31 - 1  # characters of a cell of CSV; Python's own limit of 131,072 is shorter than many a document


class Document(NamedTuple):
    text: str
    origin: str  # "file", "file:line" or "file#row", rows from 0


def read_text(path: Path, field: str) -> Iterator[Document]:
    """The whole file as one document, its line ends as they are."""
    del field  # a text file has none
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path}: the file is empty")
    if (place := content.find(0)) >= 0:
        raise NotText(f"{path}: a zero byte at {place}, as in binary files and UTF-16; convert it to UTF-8 text")
    yield Document(decode_utf8(content, str(path)).removeprefix(MARK), str(path))


def decode_utf8(content: bytes, place: str) -> str:
    """Raises NotText naming the first byte that is not UTF-8."""
    try:
        return content.decode("utf-8")  # utf-8-sig would count the bytes of an error from after the mark
    except UnicodeDecodeError as error:
        raise NotText(
            f"{place}: not UTF-8 at byte {error.start} (0x{content[error.start]:02x}); "
            "convert it, for example with iconv -f ENCODING -t utf-8"
        ) from None


def read_json_lines(path: Path, field: str) -> Iterator[Document]:
    """A record a line."""
    decoder = json_decoder(field)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                record = decoder.decode(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not a JSON value in UTF-8 ({error})") from None
            yield Document(record_text(record, field, place), place)


def read_json(path: Path, field: str) -> Iterator[Document]:
    """One array of records, one record, or a record a line."""
    content = decode_utf8(path.read_bytes(), str(path)).removeprefix(MARK)
    try:
        value, end = json_decoder(field).raw_decode(content, len(content) - len(content.lstrip()))
    except (ValueError, RecursionError) as error:
        raise NotText(f"{path}: not JSON ({error})") from None
    if content[end:].strip():
        yield from read_json_lines(path, field)
    elif isinstance(value, list):
        for number, record in enumerate(value):
            place = f"{path}#{number}"
            yield Document(record_text(record, field, place), place)
    else:
        yield Document(record_text(value, field, str(path)), str(path))


def json_decoder(field: str) -> json.JSONDecoder:
    """Raises ValueError where an object has the field twice: Python's own keeps the last, and the other is lost."""

    def record(pairs: list[tuple]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs) and [name for name, _ in pairs].count(field) > 1:
            raise ValueError(f"field {field!r} twice in one object")
        return found

    return json.JSONDecoder(object_pairs_hook=record)


def record_text(record, field: str, place: str) -> str:
    """The text of a JSON value: of an object its field, of a string itself."""
    if isinstance(record, dict) and field not in record:
        raise NoField(f"{place}: no field {field!r}; there: {format_names(record)}")
    text = record[field] if isinstance(record, dict) else record
    if not isinstance(text, str):
        found = type(text).__name__
        if isinstance(record, dict):
            raise DataError(f"{place}: field {field!r} is {found}, not text")
        raise NotText(f"{place}: no field {field!r} in a {found}; a record is an object with that field, or a string")
    if half := re.search("[\ud800-\udfff]", text):  # JSON can write it, UTF-8 can't
        raise DataError(
            f"{place}: field {field!r} holds \\u{ord(half[0]):04x}, half of a surrogate pair, at "
            f"offset {half.start()}; write both halves or the character itself"
        )
    return text


def format_names(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)), 200, placeholder=" …") or "none"


def read_csv(path: Path, field: str, delimiter: str) -> Iterator[Document]:
    """A row of CSV a document, the column by the header in the first row."""
    rows = csv_rows(path, delimiter)
    _, header = next(rows, ("", []))
    column = column_index(header, field, path)
    for place, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{place}: the row has {len(cells)} cells and the header {len(header)}")
        yield Document(cells[column], place)


def csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of every row that is not blank, quoted as Excel writes them. Raises DataError for half a row."""
    csv.field_size_limit(LONGEST)
    with path.open("rb") as file:
        lines = itertools.chain([file.readline().removeprefix(MARK.encode())], file)
        texts = (decode_utf8(line, f"{path}:{number}") for number, line in enumerate(lines, 1))
        reader = csv.reader(texts, delimiter=delimiter, strict=True)  # else an open quote takes the rest of the file
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{place}: not a row of CSV ({error})") from None
            if cells:
                yield place, cells


def column_index(names: list[str], field: str, path: Path) -> int:
    if field not in names:
        raise NoField(f"{path}: no column {field!r}; there: {format_names(names)}")
    if names.count(field) > 1:
        raise DataError(f"{path}: {names.count(field)} columns are named {field!r}; rename all but one")
    return names.index(field)


def read_parquet(path: Path, field: str) -> Iterator[Document]:
    """A row a document."""
    import pyarrow  # heavy, and only parquet needs it
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        column_index(file.schema_arrow.names, field, path)
        for batch in file.iter_batches(columns=[field]):
            for text in batch.column(field).to_pylist():
                if not isinstance(text, str):
                    raise DataError(f"{path}#{row}: column {field!r} holds {type(text).__name__}, not text")
                yield Document(text, f"{path}#{row}")
                row += 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: column {field!r} is not UTF-8 in row {row} or soon after it ({error})") from None
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page too
        raise DataError(f"{path}: not a parquet file that can be read ({' '.join(str(error).split())})") from None


READERS = {  # by how the name ends; anything else is a text
    ".jsonl": read_json_lines,
    ".jsonlines": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": functools.partial(read_csv, delimiter=","),
    ".tsv": functools.partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
}
