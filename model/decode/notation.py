"""How a sampler chain is written: JSON is the canonical form, a line of text its shorthand. chain.py reads the result.

temperature=0.8,xtc(probability=0.5,threshold=0.1),greedy
[{"name": "temperature", "value": 0.8}, {"name": "xtc", "probability": 0.5, "threshold": 0.1}, {"name": "greedy"}]
"""

from __future__ import annotations

import json
import re
from typing import Any

VALUE = None  # the key of a value that names no parameter, as in temperature=0.8: the first one's
DECODER = json.JSONDecoder()
NAME = re.compile(r"\s*([^=(),]*?)\s*(?=[=(),]|$)")
BARE = re.compile(r"\s*([^(),]*?)\s*(?=[),]|$)")  # a value without quotes: a number, a word, a path


class NotationError(ValueError):
    """A chain's text can't be read; the message is a part of a line."""


def read(text: str) -> list[tuple[str, dict[str | None, Any]]]:
    """The names of a chain with their parameters, in order, from its text or its JSON. Raises NotationError."""
    if text.lstrip().startswith("["):
        return read_json(text)
    items, at = [], 0
    while at < len(text.rstrip()) or (items and at <= len(text) and text[at - 1] == ","):
        name, at = NAME.match(text, at)[1], NAME.match(text, at).end()
        values: dict[str | None, Any] = {}
        if text[at : at + 1] == "=":
            values[VALUE], at = read_value(text, at + 1)
        elif text[at : at + 1] == "(":
            values, at = read_arguments(text, at + 1)
        items.append((name, values))
        if text[at : at + 1] not in ("", ","):
            raise NotationError(f"{text[at:]!r} behind {text[:at]!r} begins with no comma")
        at += 1
    return items


def read_arguments(text: str, at: int) -> tuple[dict[str | None, Any], int]:
    """`a=1,b=2)` from an offset on: the values, and the offset behind the bracket."""
    values: dict[str | None, Any] = {}
    while True:
        key, at = NAME.match(text, at)[1], NAME.match(text, at).end()
        if text[at : at + 1] != "=" or not key:
            raise NotationError(f"{text[:at]!r} goes on with no name=value")
        if key in values:
            raise NotationError(f"{key!r} stands twice in {text!r}")
        values[key], at = read_value(text, at + 1)
        at += 1
        if text[at - 1 : at] == ")":
            return values, at
        if text[at - 1 : at] != ",":
            raise NotationError(f"{text[: at - 1]!r} goes on with neither a comma nor a closing bracket")


def read_value(text: str, at: int) -> tuple[Any, int]:
    """A JSON string, list or object, or a bare word, from an offset on: the value, and the offset behind it."""
    start = at + len(text[at:]) - len(text[at:].lstrip())
    if text[start : start + 1] in ('"', "[", "{"):
        try:
            value, end = DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise NotationError(f"{text[start:]!r} is no JSON ({error.msg}); put a text in quotes") from None
        return value, end + len(text[end:]) - len(text[end:].lstrip())
    word = BARE.match(text, at)
    return word[1], word.end()


def read_json(text: str) -> list[tuple[str, dict[str | None, Any]]]:
    """The canonical form: a list of objects, each with a name."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotationError(f"it is no JSON ({error})") from None
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise NotationError(f'{json.dumps(item)} is no object with a name, as {{"name": "top_k", "k": 50}}')
    return [(item["name"], {key: item[key] for key in item if key != "name"}) for item in value]


def write(name: str, values: dict[str, Any], first: str | None) -> str:
    """The shorthand of one name with its parameters; `first`: that which is written without its name if alone."""
    if not values:
        return name
    if list(values) == [first]:
        return f"{name}={write_value(values[first])}"
    return f"{name}({','.join(f'{key}={write_value(value)}' for key, value in values.items())})"


def write_value(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
