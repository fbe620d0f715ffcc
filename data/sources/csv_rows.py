"""Tables of comma- or tab-separated values: a document of each row. data/sources/readers.py picks this reader."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from data.errors import DataError, MissingFieldError, NotTextError
from data.sources.document import Document, Refusal
from data.sources.lines import MAX_RECORD_BYTES, MAX_RECORD_NAME, is_too_long, read_lines, rest_of_line
from data.sources.records import Fields, format_names, read_record
from data.sources.text import BYTE_ORDER_MARK, decode_utf8


def read_csv(stream: BinaryIO, name: str, fields: Fields, delimiter: str) -> Iterator[Document | Refusal]:
    """A document of each row of CSV, from the columns that the header in the first row names like the fields."""
    if fields.ids:
        raise NotTextError(f"{name}: a table's cells are text, no lists of token ids; write JSON lines or parquet")
    rows = read_rows(stream, name, delimiter)
    _, header = next(rows, ("", []))
    if isinstance(header, Refusal):
        raise header.error(header.reason)
    fields = fields.of_table(header, name, "column")
    columns = {field: column_index(header, field, name) for field in fields.names}
    for origin, cells in rows:
        if isinstance(cells, Refusal):
            yield cells
        elif len(cells) != len(header):
            yield Refusal(f"{origin}: the row has {len(cells)} cells and the header {len(header)}")
        else:
            yield read_record({field: cells[column] for field, column in columns.items()}, fields, origin)


def column_index(names: list[str], field: str, file: str) -> int:
    """The place of a column. Raises MissingFieldError where there is none of this name, DataError where several are."""
    if field not in names:
        raise MissingFieldError(f"{file}: no column {field!r}; there: {format_names(names)}")
    if names.count(field) > 1:
        raise DataError(f"{file}: {names.count(field)} columns are named {field!r}; rename all but one")
    return names.index(field)


def read_rows(stream: BinaryIO, name: str, delimiter: str) -> Iterator[tuple[str, list[str] | Refusal]]:
    """(origin, cells) of every row that is not blank, quoted as Excel writes them.

    Raises DataError where a quote is not closed: which rows come after it can't be told.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)  # Python's own limit of 131,072 is less than many documents have
    lines = Lines(stream, name)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)  # else an open quote takes the rest of the file
    while True:
        origin = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.ended:
                raise DataError(f"{origin}: not a row of CSV ({error}); close its quote") from None
            cells = Refusal(f"{origin}: not a row of CSV ({error})")
        if cells := lines.fault or cells:
            yield origin, cells


class Lines:
    """The lines of a table as text, for csv.reader, which takes as many as a row has.

    `fault` says why the row that was begun last can't be read; None where nothing is wrong with its lines.
    """

    def __init__(self, stream: BinaryIO, name: str):
        self.stream, self.name = stream, name
        self.number = self.row_bytes = 0
        self.origin, self.fault, self.ended = "", None, False

    def begin_row(self) -> str:
        """Returns the origin of the row that comes next, which begins without a fault."""
        self.origin, self.fault, self.row_bytes = f"{self.name}:{self.number + 1}", None, 0
        return self.origin

    def __iter__(self) -> Iterator[str]:
        for number, line in read_lines(self.stream):
            self.number = number
            if is_too_long(len(line)):
                yield self.omit(line)
                continue
            self.row_bytes += len(line)
            if is_too_long(self.row_bytes):
                raise DataError(f"{self.origin}: a row of more than {MAX_RECORD_NAME}, or a quote that is not closed")
            yield self.decode(line if self.number > 1 else line.removeprefix(BYTE_ORDER_MARK.encode()))
        self.ended = True

    def omit(self, line: bytes) -> str:
        """What stands for a line that is too long: its last open quote, so that the rows behind it are found."""
        self.fault = Refusal(f"{self.origin}: a row of more than {MAX_RECORD_NAME}; cut the text into several rows")
        quotes = line.count(b'"') + sum(part.count(b'"') for part in rest_of_line(self.stream, line))
        return '"' * (quotes % 2) + "\n"

    def decode(self, line: bytes) -> str:
        try:
            return decode_utf8(line, f"{self.name}:{self.number}")
        except NotTextError as error:
            self.fault = Refusal(str(error), NotTextError)
            return line.decode("utf-8", "replace")
