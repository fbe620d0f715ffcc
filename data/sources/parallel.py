"""Parallel text: files in which the same lines belong together, as the two languages of a translation.

data/sources/source.py opens them where a path has names in braces.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator

from data.errors import DataError
from data.sources.document import Document, Refusal
from data.sources.lines import MAX_RECORD_NAME, is_too_long, read_lines
from data.sources.readers import READERS
from data.sources.records import Fields, read_record
from data.sources.stream_file import StreamFile
from data.sources.text import BYTE_ORDER_MARK, decode_utf8

BRACES = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")  # two names or more, with a comma between


def brace_names(path: str) -> list[str]:
    """The names in the braces of a path, in order; none where it has no braces with a comma in them."""
    found = BRACES.search(path)
    return found[1].split(",") if found else []


def path_of(path: str, name: str) -> str:
    """The path of one of the files."""
    return BRACES.sub(lambda _: name, path, count=1)


class ParallelFile:
    """Files of the same number of lines (SourceFile). `parts`: each of them, by the name of its field."""

    def __init__(self, path: str, parts: dict[str, StreamFile], fields: Fields):
        self.name, self.parts, self.fields = path, parts, fields
        self.stamp = [part.stamp for part in parts.values()]
        self.size = sum(part.size for part in parts.values())
        self.format = f".{{{','.join(parts)}}}" + "".join(part.format for part in parts.values())
        for part in parts.values():
            if part.ending.extension in READERS:
                raise DataError(f"{part.name}: names in braces stand for files of lines, not of records; name it alone")

    def documents(self) -> Iterator[Document | Refusal]:
        """A record of the lines of each number. Raises DataError where one file has more lines than another."""
        lines = itertools.zip_longest(*(part_lines(part) for part in self.parts.values()))
        for number, record in enumerate(lines, 1):
            origin = f"{self.name}:{number}"
            if None in record:
                short = list(self.parts.values())[record.index(None)].name
                raise DataError(f"{short}: ends after {number - 1} lines, another file of {self.name} goes on")
            yield read_record(dict(zip(self.parts, record, strict=True)), self.fields, origin)

    def digest(self) -> str:
        """sha256 of the files' digests, in hex."""
        return hashlib.sha256("".join(part.digest() for part in self.parts.values()).encode()).hexdigest()


def part_lines(part: StreamFile) -> Iterator[str]:
    """The lines of a file without their ends."""
    with part.open() as file:
        _, stream = part.unpack(file)
        for number, line in read_lines(stream):
            if is_too_long(len(line)):
                raise DataError(
                    f"{part.name}:{number}: a line of more than {MAX_RECORD_NAME}; these are no lines of text"
                )
            text = decode_utf8(line.rstrip(b"\r\n"), f"{part.name}:{number}")
            yield text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
