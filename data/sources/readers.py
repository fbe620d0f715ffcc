"""Readers, one for each file format, that yield a file's documents: text, JSON lines, JSON, CSV, parquet.

data/sources/source.py picks one by the extension.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import DataError, MissingFieldError, NotTextError
from data.sources.document import Document, text_document

BYTE_ORDER_MARK = "\ufeff"  # some editors put it first; it is no text
MAX_CELL_LENGTH = 2**31 - 1  # characters of a CSV cell; Python's own limit of 131,072 is less than many documents have


def read_text(path: Path, field: str) -> Iterator[Document]:
    """The whole file as one document, its line ends as they are."""
    del field  # a text file has none
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path}: the file is empty")
    if (offset := content.find(0)) >= 0:
        raise NotTextError(f"{path}: a zero byte at {offset}, as in binary files and UTF-16; convert it to UTF-8 text")
    yield text_document(decode_utf8(content, str(path)).removeprefix(BYTE_ORDER_MARK), str(path))


def decode_utf8(content: bytes, origin: str) -> str:
    """The bytes as text. Raises NotTextError naming `origin` and the first byte that is not UTF-8."""
    try:
        return content.decode("utf-8")  # utf-8-sig would count the bytes of an error from after the mark
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"{origin}: not UTF-8 at byte {error.start} (0x{content[error.start]:02x}); "
            "convert it, for example with iconv -f ENCODING -t utf-8"
        ) from None


def read_json_lines(path: Path, field: str) -> Iterator[Document]:
    """A document of each line: a record, or a bare string."""
    decoder = json_decoder(field)
    with path.open("rb") as lines:
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            origin = f"{path}:{line_number}"
            try:
                record = decoder.decode(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{origin}: not a JSON value in UTF-8 ({error})") from None
            yield text_document(record_text(record, field, origin), origin)


def read_json(path: Path, field: str) -> Iterator[Document]:
    """Documents of a file that holds one array of records, one record, or a record on each line."""
    content = decode_utf8(path.read_bytes(), str(path)).removeprefix(BYTE_ORDER_MARK)
    try:
        value, end = json_decoder(field).raw_decode(content, len(content) - len(content.lstrip()))
    except (ValueError, RecursionError) as error:
        raise NotTextError(f"{path}: not JSON ({error})") from None
    if content[end:].strip():
        yield from read_json_lines(path, field)
    elif isinstance(value, list):
        for index, record in enumerate(value):
            origin = f"{path}#{index}"
            yield text_document(record_text(record, field, origin), origin)
    else:
        yield text_document(record_text(value, field, str(path)), str(path))


def json_decoder(field: str) -> json.JSONDecoder:
    """A decoder that raises ValueError where an object has the field twice: Python's own keeps only the last one."""

    def build_object(pairs: list[tuple]) -> dict:
        record = dict(pairs)
        if len(record) < len(pairs) and [name for name, _ in pairs].count(field) > 1:
            raise ValueError(f"field {field!r} twice in one object")
        return record

    return json.JSONDecoder(object_pairs_hook=build_object)


def record_text(record, field: str, origin: str) -> str:
    """The text of a JSON value: the field of an object, or a string itself. Raises DataError where it has none."""
    if isinstance(record, dict) and field not in record:
        raise MissingFieldError(f"{origin}: no field {field!r}; there: {format_names(record)}")
    text = record[field] if isinstance(record, dict) else record
    if not isinstance(text, str):
        kind = type(text).__name__
        if isinstance(record, dict):
            raise DataError(f"{origin}: field {field!r} is {kind}, not text")
        raise NotTextError(
            f"{origin}: no field {field!r} in a {kind}; a record is an object with that field, or a string"
        )
    if surrogate := re.search("[\ud800-\udfff]", text):  # JSON can write it, UTF-8 can't
        raise DataError(
            f"{origin}: field {field!r} holds \\u{ord(surrogate[0]):04x}, half of a surrogate pair, at "
            f"offset {surrogate.start()}; write both halves or the character itself"
        )
    return text


def format_names(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)), 200, placeholder=" …") or "none"


def read_csv(path: Path, field: str, delimiter: str) -> Iterator[Document]:
    """A document of each row of CSV, from the column that the header in the first row names `field`."""
    rows = csv_rows(path, delimiter)
    _, header = next(rows, ("", []))
    column = column_index(header, field, path)
    for origin, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{origin}: the row has {len(cells)} cells and the header {len(header)}")
        yield text_document(cells[column], origin)


def csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """(origin, cells) of every row that is not blank, quoted as Excel writes them. Raises DataError for half a row."""
    csv.field_size_limit(MAX_CELL_LENGTH)
    with path.open("rb") as file:
        lines = itertools.chain([file.readline().removeprefix(BYTE_ORDER_MARK.encode())], file)
        decoded = (decode_utf8(line, f"{path}:{line_number}") for line_number, line in enumerate(lines, 1))
        reader = csv.reader(decoded, delimiter=delimiter, strict=True)  # else an open quote takes the rest of the file
        while True:
            origin = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{origin}: not a row of CSV ({error})") from None
            if cells:
                yield origin, cells


def column_index(names: list[str], field: str, path: Path) -> int:
    if field not in names:
        raise MissingFieldError(f"{path}: no column {field!r}; there: {format_names(names)}")
    if names.count(field) > 1:
        raise DataError(f"{path}: {names.count(field)} columns are named {field!r}; rename all but one")
    return names.index(field)


def read_parquet(path: Path, field: str) -> Iterator[Document]:
    """A document of each row of a parquet file, from the column `field`."""
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
                yield text_document(text, f"{path}#{row}")
                row += 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: column {field!r} is not UTF-8 in row {row} or soon after it ({error})") from None
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page too
        raise DataError(f"{path}: not a parquet file that can be read ({' '.join(str(error).split())})") from None


READERS = {  # by the extension; any other file is a text
    ".jsonl": read_json_lines,
    ".jsonlines": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": functools.partial(read_csv, delimiter=","),
    ".tsv": functools.partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
}
