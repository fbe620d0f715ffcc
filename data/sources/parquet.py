"""Parquet: a document of each row, from columns of text or of lists of token ids. data/sources/readers.py picks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from data.errors import DataError
from data.sources.csv_rows import column_index
from data.sources.document import Document, Refusal
from data.sources.lines import MAX_RECORD_NAME, is_too_long
from data.sources.records import Fields, read_record

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

BATCH_BYTES = 4 << 20  # of the columns' content that is read at once, about
READ_BYTES = 1 << 20  # read from the file at once; else a column of a whole row group


def read_parquet(file: BinaryIO, name: str, fields: Fields) -> Iterator[Document | Refusal]:
    """A document of each row of a parquet file. Raises DataError where the file is damaged or lacks a column."""
    import pyarrow  # heavy, and only parquet needs it
    import pyarrow.parquet

    row = 0
    try:
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES)
        fields = fields.of_table(table.schema_arrow.names, name, "column")
        for field in fields.names:
            column_index(table.schema_arrow.names, field, name)
        for batch in read_batches(table, fields.names):
            columns = [batch.column(field) for field in fields.names]
            for cells in zip(*columns, strict=True):
                yield read_row(cells, fields, name, row)
                row += 1
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page too
        raise DataError(f"{name}: not a parquet file that can be read ({' '.join(str(error).split())})") from None


def read_batches(table: pyarrow.parquet.ParquetFile, columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
    """The rows in batches of about BATCH_BYTES, one after another."""
    for index in range(table.num_row_groups):
        group = table.metadata.row_group(index)
        chunks = [group.column(column) for column in range(group.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks if is_part_of(chunk.path_in_schema, columns))
        rows = max(1, group.num_rows * BATCH_BYTES // max(size, 1))
        yield from table.iter_batches(rows, row_groups=[index], columns=columns, use_threads=False)


def is_part_of(path: str, columns: list[str]) -> bool:
    """Whether a column as parquet stores it is one of `columns`, or, as that of a list's items, below one."""
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def read_row(cells: tuple[pyarrow.Scalar, ...], fields: Fields, name: str, row: int) -> Document | Refusal:
    record, origin = {}, f"{name}#{row}"
    for field, cell in zip(fields.names, cells, strict=True):
        try:
            record[field] = integers(cell) if fields.ids else cell.as_py()
        except UnicodeDecodeError as error:
            return Refusal(f"{name}: column {field!r} is not UTF-8 in row {row} ({error})")
        if isinstance(record[field], str) and is_too_long(len(record[field])):
            return Refusal(f"{origin}: a cell of more than {MAX_RECORD_NAME}; cut the text into several rows")
    return read_record(record, fields, origin, "column {!r} holds")


def integers(cell: pyarrow.Scalar) -> Any:
    """The value of a cell: an array [t] of a list of integers, a hundred times as fast as a Python list; else as_py."""
    import pyarrow.types  # as above

    if pyarrow.types.is_list(cell.type) or pyarrow.types.is_large_list(cell.type):
        numbers = cell.values  # None where the cell is null
        if numbers is not None and pyarrow.types.is_integer(numbers.type) and not numbers.null_count:
            return numbers.to_numpy()
    return cell.as_py()
