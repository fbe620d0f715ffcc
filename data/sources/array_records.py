"""Reads ArrayRecord files: their records by number, and the documents that the records hold.

data/sources/source.py opens such files, data/sources/tfds.py the shards of TFDS's data sets, which are such files, too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data.errors import DataError, NotTextError
from data.sources.document import Document, Refusal, text_document
from data.sources.files import translate_os_errors
from data.sources.json_records import is_json, json_decoder, read_line
from data.sources.records import Fields
from data.sources.text import decode_utf8

EXTENSIONS = (".array_record", ".arrayrecord")
BATCH_BYTES = 2**22  # of the file, read at once; its records, unpacked, take a few times as much memory

Records = Iterable[tuple[str, bytes | Refusal]]  # (origin, content); a Refusal stands for a damaged record


class RecordFile:
    """An ArrayRecord file (SourceFile). `read` makes documents of its records.

    `part`: the numbers of the records to read; None stands for all. `count`: how many the file has to hold, where that
    is known. The digest is of the records alone: it does not change where the same records are packed in another way.
    """

    format = EXTENSIONS[0]

    def __init__(
        self,
        path: Path,
        read: Callable[[Records], Iterator[Document | Refusal]],
        part: range | None = None,
        count: int | None = None,
    ):
        self.path, self.read, self.part, self.count, self.name = path, read, part, count, str(path)
        with translate_os_errors(path):
            status = path.stat()
        bounds = [part.start, part.stop] if part else []
        self.size, self.stamp = status.st_size, [status.st_size, status.st_mtime_ns, *bounds]
        self.sha256: str | None = None

    def documents(self) -> Iterator[Document | Refusal]:
        return self.read(self.hashed_records())

    def digest(self) -> str:
        if self.sha256 is None:
            deque(self.hashed_records(), maxlen=0)
        return self.sha256

    def hashed_records(self) -> Records:
        """Every record. Read to the end, it leaves the records' digest in `sha256`."""
        sha256 = hashlib.sha256()
        for number, record in read_records(self.path, self.part, self.count):
            content = record.reason.encode() if isinstance(record, Refusal) else record
            sha256.update(len(content).to_bytes(8, "little") + content)
            yield f"{self.path}#{number}", record
        self.sha256 = sha256.hexdigest()


def open_file(path: Path, fields: Fields) -> RecordFile:
    """A file whose records are texts or JSON objects."""
    return RecordFile(path, functools.partial(read_texts, fields))


def read_texts(fields: Fields, records: Records) -> Iterator[Document | Refusal]:
    """A document of each record. All are JSON objects with the fields where the first one is a JSON object; else texts.

    Token ids, prompts and pairs have no place in a text: where they are asked for, every record is read as JSON.
    """
    is_text = None
    decoder = json_decoder(fields)
    for origin, record in records:
        if isinstance(record, Refusal):
            yield record
            continue
        if is_text is None:
            is_text = not (fields.ids or not fields.takes_bare_values or is_object(record))
        yield read_text_record(record, origin) if is_text else read_line(record, decoder, fields, origin)


def is_object(record: bytes) -> bool:
    return record.lstrip().startswith(b"{") and is_json(record)


def read_text_record(record: bytes, origin: str) -> Document | Refusal:
    """A document of a record that is a text in UTF-8, or the reason why it is none."""
    remedy = "; a record is a text in UTF-8 or a JSON object (examples of TFDS are read as tfds:NAME/SPLIT)"
    if (zero := record.find(0)) >= 0:
        return Refusal(f"{origin}: a zero byte at {zero}, as in binary data{remedy}")
    try:
        return text_document(decode_utf8(record, origin), origin)
    except NotTextError as error:
        return Refusal(f"{error}{remedy}")


def read_records(
    path: Path, part: range | None = None, expected: int | None = None
) -> Iterator[tuple[int, bytes | Refusal]]:
    """(number, content) of the records of an ArrayRecord file, those in `part` or all; a Refusal where one is damaged.

    Raises DataError where the file's index of records can't be read, and where it has another number than expected.
    """
    with open_reader(path) as reader:
        count = reader.num_records()
        if expected is not None and count != expected:
            raise DataError(f"{path}: {count} records, where {expected} should be; write the file again")
        part = range(count) if part is None else part
        batch = max(1, BATCH_BYTES * count // max(path.stat().st_size, 1))
        for start in part[::batch]:
            numbers = range(start, min(start + batch, part.stop))
            yield from zip(numbers, read_batch(reader, numbers, path), strict=True)


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator:
    """The library's reader of a file. Raises DataError where it is no whole ArrayRecord file.

    The library itself says nothing then before the reader is closed, and counts no records.
    """
    from array_record.python.array_record_module import ArrayRecordReader  # compiled, and few sources need it

    with translate_os_errors(path):
        path.stat()
    reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    if not reader.ok():
        raise DataError(f"{path}: no ArrayRecord file, or its end is damaged or cut off; write it again")
    with contextlib.closing(reader):
        yield reader


def read_batch(reader, numbers: range, path: Path) -> list[bytes | Refusal]:
    """The records of these numbers. Where one of them is damaged, each is read by itself."""
    try:
        return reader.read(numbers.start, numbers.stop)
    except RuntimeError as error:
        if len(numbers) == 1:
            message = " ".join(str(error).split())
            return [Refusal(f"{path}#{numbers.start}: a damaged record ({message}); write the file again")]
        return [record for number in numbers for record in read_batch(reader, range(number, number + 1), path)]
