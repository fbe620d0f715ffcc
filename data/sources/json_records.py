"""JSON: a record on each line, or one array of records in a file. data/sources/readers.py picks these readers."""

from __future__ import annotations

import io
import itertools
import json
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

from data.errors import DataError, NotTextError
from data.sources.document import Document, Refusal
from data.sources.lines import MAX_RECORD_NAME, is_too_long, read_lines, rest_of_line
from data.sources.records import Fields, read_record
from data.sources.text import BYTE_ORDER_MARK, decode_utf8

MAX_FILE_BYTES = 256 << 20  # of a JSON value that is read whole; as Python objects it takes several times that


def read_json_lines(stream: BinaryIO, name: str, fields: Fields) -> Iterator[Document | Refusal]:
    """A document of each line: a record, or a bare value."""
    return read_lines_of_json(read_lines(stream), stream, name, fields)


def read_lines_of_json(
    lines: Iterator[tuple[int, bytes]], stream: BinaryIO, name: str, fields: Fields
) -> Iterator[Document | Refusal]:
    """A document of each line. `stream` is where the lines come from."""
    decoder = json_decoder(fields)
    for line_number, line in lines:
        origin = f"{name}:{line_number}"
        if is_too_long(len(line)):
            deque(rest_of_line(stream, line), maxlen=0)
            yield Refusal(f"{origin}: a line of more than {MAX_RECORD_NAME}; cut the text into several records")
        elif line.strip():
            yield read_line(line, decoder, fields, origin)


def read_line(line: bytes, decoder: json.JSONDecoder, fields: Fields, origin: str) -> Document | Refusal:
    try:
        record = decoder.decode(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Refusal(f"{origin}: not a JSON value in UTF-8 ({error})")
    return read_record(record, fields, origin)


def read_json(stream: io.BufferedReader, name: str, fields: Fields) -> Iterator[Document | Refusal]:
    """Documents of a file that holds one array of records, one record, or a record on each line."""
    lines = read_lines(stream)
    number, line = next(lines, (1, b""))
    if stream.peek(1).strip() and is_json(line):  # a record on each line: there may be any number
        yield from read_lines_of_json(itertools.chain([(number, line)], lines), stream, name, fields)
        return
    content = line + stream.read(MAX_FILE_BYTES + 1 - len(line))
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{name}: a JSON value of more than {MAX_FILE_BYTES >> 20} MiB; write it as JSON lines")
    yield from read_json_content(content, name, fields)


def is_json(line: bytes) -> bool:
    """Whether a line is a JSON value by itself."""
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def read_json_content(content: bytes, name: str, fields: Fields) -> Iterator[Document | Refusal]:
    """Documents of the content of a whole file."""
    text = decode_utf8(content, name).removeprefix(BYTE_ORDER_MARK)
    try:
        value, end = json_decoder(fields).raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError) as error:
        raise NotTextError(f"{name}: not JSON ({error})") from None
    if text[end:].strip():
        yield from read_json_lines(io.BytesIO(content), name, fields)
    elif isinstance(value, list):
        for index, record in enumerate(value):
            yield read_record(record, fields, f"{name}#{index}")
    else:
        yield read_record(value, fields, name)


def json_decoder(fields: Fields) -> json.JSONDecoder:
    """A decoder that raises ValueError where an object has a field twice: Python's own keeps only the last one."""

    def build_object(pairs: list[tuple[str, Any]]) -> dict:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            for field in fields.names:
                if names.count(field) > 1:
                    raise ValueError(f"field {field!r} twice in one object")
        return record

    return json.JSONDecoder(object_pairs_hook=build_object)
