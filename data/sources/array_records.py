"""Reads ArrayRecord files: their records by number, and the documents in them.

data/sources/source.py opens such files, data/sources/tfds.py the shards of TFDS's data sets, which are such files, too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import DataError, MissingFieldError
from data.sources.document import Document, Refusal
from data.sources.files import translate_os_errors

BATCH_BYTES = 2**22  # of the file, read at once; its records, unpacked, take a few times as much memory


class RecordFile:
    """An ArrayRecord file (SourceFile). `parse` makes a document of a record's bytes and its origin.

    `part`: the numbers of the records to read; None stands for all. A damaged record, and one that `parse` raises a
    DataError for, is a Refusal, and reading goes on behind it. The digest is of the records alone, so it does not
    change where the same records are packed in another way.
    """

    format = ".array_record"

    def __init__(self, path: Path, parse: Callable[[bytes, str], Document], part: range | None = None):
        self.path, self.parse, self.part, self.name = path, parse, part, str(path)
        with translate_os_errors(path):
            status = path.stat()
        bounds = [part.start, part.stop] if part else []
        self.size, self.stamp = status.st_size, [status.st_size, status.st_mtime_ns, *bounds]
        self.sha256: str | None = None

    def documents(self) -> Iterator[Document | Refusal]:
        read_any = False
        for origin, record in self.hashed_records():
            if isinstance(record, Refusal):
                yield record
                continue
            try:
                document = self.parse(record, origin)
            except DataError as error:
                if isinstance(error, MissingFieldError) and not read_any:  # most likely no record has the field
                    raise
                document = Refusal(str(error))
            read_any = True
            yield document

    def digest(self) -> str:
        if self.sha256 is None:
            deque(self.hashed_records(), maxlen=0)
        return self.sha256

    def hashed_records(self) -> Iterator[tuple[str, bytes | Refusal]]:
        """(origin, record) of every record. Read to the end, it leaves their digest in `sha256`."""
        sha256 = hashlib.sha256()
        for number, record in read_records(self.path, self.part):
            content = record.reason.encode() if isinstance(record, Refusal) else record
            sha256.update(len(content).to_bytes(8, "little") + content)
            yield f"{self.path}#{number}", record
        self.sha256 = sha256.hexdigest()


def read_records(path: Path, part: range | None = None) -> Iterator[tuple[int, bytes | Refusal]]:
    """(number, content) of the records of an ArrayRecord file, those in `part` or all; a Refusal where one is damaged.

    Raises DataError where the file's index of records can't be read, and where `part` goes beyond it.
    """
    with open_reader(path) as reader:
        count = reader.num_records()
        if part and part.stop > count:
            raise DataError(f"{path}: {count} records, where {part.stop} or more should be; write the file again")
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
    try:
        return reader.read(numbers.start, numbers.stop)
    except RuntimeError as error:
        if len(numbers) == 1:
            message = " ".join(str(error).split())
            return [Refusal(f"{path}#{numbers.start}: a damaged record ({message}); write the file again")]
        return [record for number in numbers for record in read_batch(reader, range(number, number + 1), path)]
