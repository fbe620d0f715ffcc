"""Reads JSON files of a run strictly: an error is one line that names the file, the place in it and what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from data.errors import DataError

NAMES = {str: "text", list: "a list", dict: "an object", bool: "true or false"}


class Part:
    """A value in a JSON file, with the file and its path in there. Raises DataError where it is not what is asked."""

    def __init__(self, value, file: str, place: str = ""):
        self.value, self.file, self.place = value, file, place

    def fail(self, expected: str) -> DataError:
        shown = json.dumps(self.value)
        where = f"{self.file}: {self.place}" if self.place else self.file
        return DataError(f"{where}: expected {expected}, got {shown if len(shown) <= 60 else shown[:60] + '…'}")

    def expect(self, kind: type):
        if not isinstance(self.value, kind):
            raise self.fail(NAMES[kind])
        return self.value

    def __getitem__(self, name: str) -> Part:
        if name not in self.expect(dict):
            raise DataError(f"{self.file}: {f'{self.place}: ' if self.place else ''}no {name!r} there")
        return self.inner(name, self.value[name])

    def get(self, name: str) -> Part | None:
        """The member of that name; None where there is none, or null."""
        value = self.expect(dict).get(name)
        return None if value is None else self.inner(name, value)

    def inner(self, name: str | int, value) -> Part:
        return Part(value, self.file, f"{self.place}.{name}" if self.place else str(name))

    def items(self) -> Iterator[tuple[str, Part]]:
        return ((name, self.inner(name, value)) for name, value in self.expect(dict).items())

    def list(self) -> list[Part]:
        return [self.inner(number, value) for number, value in enumerate(self.expect(list))]

    def text(self) -> str:
        return self.expect(str)

    def flag(self) -> bool:
        return self.expect(bool)

    def number(self) -> float:
        """A number, which may be NaN or infinite: what a run measures may be."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.fail("a number")
        return self.value

    def whole(self) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.fail("a whole number")
        return self.value

    def range(self) -> tuple[float, float]:
        """Two numbers, the smaller first."""
        ends = [part.number() for part in self.list()]
        if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
            raise self.fail("two numbers, the smaller first")
        return ends[0], ends[1]


def read_json(file: Path) -> Part | None:
    """A file's object; None where there is no such file."""
    return Part(parse(file.read_bytes(), str(file)), str(file)) if file.is_file() else None


def read_lines(file: Path) -> list[Part]:
    """The objects of a file of JSON lines, none where there is no such file. A last line without its end was torn by a
    kill, or is being written: it is left out."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [Part(parse(line, str(file), number), f"{file}:{number}") for number, line in enumerate(lines, 1)]


def parse(content: bytes, file: str, line: int = 0) -> dict:
    """The object in a file, or in this line of it. Raises DataError."""
    where, remedy = f"{file}:{line}" if line else file, "move the file away, or put right what is wrong there"
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: no text in UTF-8; {remedy}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{line or error.lineno}: no JSON ({error.msg}); {remedy}") from None
    except (ValueError, RecursionError):  # a number of too many digits; brackets in brackets
        raise DataError(f"{where}: no JSON that Python reads; {remedy}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, as in {{…}}; {remedy}")
    return value
