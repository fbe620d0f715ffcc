"""Documents from files: text, folders, globs, JSON lines, parquet. data/store.py tokenizes what comes out here."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data.config import Source
from data.errors import DataError

EMBEDDED = {"embedded:shakespeare": Path(__file__).parent / "corpora" / "tinyshakespeare.txt"}


class Document(NamedTuple):
    text: str
    origin: str  # "file", "file:line" or "file#row"


def files(source: Source) -> list[Path]:
    """The files a source names, in a fixed order. Raises DataError where there is none."""
    if source.path in EMBEDDED:
        return [EMBEDDED[source.path]]
    if not source.path:
        raise DataError(f"a source's path is empty; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    if ":" in source.path.split("/")[0]:
        raise DataError(f"{source.path}: unknown kind of source; use a file, a folder, a glob or {', '.join(EMBEDDED)}")
    path = Path(source.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and not hidden(p.relative_to(path)))
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise DataError(f"{source.path}: {'the folder holds no file' if path.is_dir() else missing(path)}")
    full = [p for p in found if p.stat().st_size]
    if not full:
        raise DataError(f"{source.path}: every file there is empty")
    return full


def hidden(path: Path) -> bool:
    """Whether a part of it starts with a dot: .git, .ipynb_checkpoints hold no text of the user's."""
    return any(part.startswith(".") for part in path.parts)


def missing(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 1)
    return f"no such file, folder or match{f'; did you mean {path.parent / close[0]}?' if close else ''}"


def documents(source: Source) -> Iterator[Document]:
    """Every document of a source, in file order. Raises DataError naming file and place."""
    for path in files(source):
        yield from READERS.get(path.suffix, text_file)(path, source.field)


def text_file(path: Path, field: str) -> Iterator[Document]:
    del field  # a text file has none
    content = path.read_bytes()
    if not content:
        raise DataError(f"{path}: the file is empty")
    try:
        # The mark some editors put first is no text; codec utf-8-sig would count an error's bytes from after it.
        yield Document(content.decode("utf-8").removeprefix("\ufeff"), str(path))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start} (0x{byte:02x}); convert it, for example with iconv -t utf-8"
        ) from None


def json_lines(path: Path, field: str) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a JSON value in UTF-8 ({error})") from None
            if not isinstance(record, dict) or field not in record:
                there = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
                raise DataError(f"{path}:{number}: no field {field!r}; there: {there}; set data.source.field")
            if not isinstance(record[field], str):
                raise DataError(f"{path}:{number}: field {field!r} is {type(record[field]).__name__}, not text")
            if half := re.search("[\ud800-\udfff]", record[field]):  # JSON can write it, UTF-8 can't
                raise DataError(
                    f"{path}:{number}: field {field!r} holds \\u{ord(half[0]):04x}, half of a surrogate pair, at "
                    f"offset {half.start()}; write both halves or the character itself"
                )
            yield Document(record[field], f"{path}:{number}")


def parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow  # heavy, and only parquet needs it
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error})") from None
    if field not in table.schema_arrow.names:
        raise DataError(f"{path}: no column {field!r}; there: {', '.join(table.schema_arrow.names)}")
    row = 0
    for batch in table.iter_batches(columns=[field]):
        for text in batch.column(0).to_pylist():
            if not isinstance(text, str):
                raise DataError(f"{path}#{row}: column {field!r} holds {type(text).__name__}, not text")
            yield Document(text, f"{path}#{row}")
            row += 1


READERS = {".jsonl": json_lines, ".parquet": parquet}  # by suffix; anything else is a text


def fingerprint(source: Source) -> str:
    """sha256 over the content of every file, in order, how each is read, and the field read from them."""
    digest = hashlib.sha256(source.field.encode())
    for path in files(source):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
        digest.update(path.suffix.encode() if path.suffix in READERS else b"")
    return digest.hexdigest()
