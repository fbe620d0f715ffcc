"""Converts config dataclasses to and from JSON, sets fields by dotted path, compares. Used by launch/ and train/.

A field that may hold one of several dataclasses (optimizer.rule, model.positions) carries its class name under `is`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

PYTHON_CONSTANTS = {"None": "null", "True": "true", "False": "false"}  # what people write on a command line, as JSON

RENAMED_FIELDS = {  # by class, as once stored
    "Execution": {"turned": "panels", "transposed": "panels"},
    "Data": {"rows": "packing"},
}
UNSTORED_FIELDS = {"Data": {"split": "position"}}  # by class: what a config meant that was stored without the field


class ConfigError(ValueError):
    """An invalid config. The message is one line: the path, the value and what would work. Exit status 2."""


def require(path: str, value, valid: bool, expected: str) -> None:
    """Raises ConfigError naming what was expected, unless the value is valid."""
    if not valid:
        raise ConfigError(f"{path}: must be {expected}, got {value}")


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Field name -> declared type, of a dataclass."""
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))


def union_members(declared) -> tuple:
    """The alternatives of a union, or the one type itself."""
    union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    return typing.get_args(declared) if union else (declared,)


def to_json(value):
    """A config as JSON values: dataclasses become objects with their class name under `is`, tuples become lists."""
    if dataclasses.is_dataclass(value):
        members = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **members}
    return [to_json(v) for v in value] if isinstance(value, tuple | list) else value


def from_json(declared, value, path: str = ""):
    """The value of a declared type, from what to_json returned or from a person's text. Raises ConfigError."""
    choices = union_members(declared)
    if value is None and type(None) in choices:
        return None
    if typing.get_origin(choices[0]) is tuple and isinstance(value, list | tuple):
        item_type = typing.get_args(choices[0])[0]
        return tuple(from_json(item_type, v, f"{path}.{i}") for i, v in enumerate(value))
    classes = {c.__name__: c for c in choices if dataclasses.is_dataclass(c)}
    if classes and isinstance(value, dict):
        fitting = [name for name, c in classes.items() if len(classes) == 1 or value.keys() <= field_types(c).keys()]
        kind = classes.get(value.get("is", fitting[0] if len(fitting) == 1 else ""))
        if kind is None:
            raise ConfigError(f"{path}: expected one of {', '.join(classes)}, got {value.get('is')!r}")
        return build(kind, {k: v for k, v in value.items() if k != "is"}, path)
    if isinstance(value, str) and value.lower() in (names := {n.lower(): c for n, c in classes.items()}):
        return build(names[value.lower()], {}, path)
    return parse_scalar(choices, value, path)


def with_current_names(stored):
    """JSON that an earlier version wrote, with renamed fields under their current names, and added ones."""
    if isinstance(stored, list):
        return [with_current_names(value) for value in stored]
    if not isinstance(stored, dict):
        return stored
    renamed, unstored = (table.get(stored.get("is"), {}) for table in (RENAMED_FIELDS, UNSTORED_FIELDS))
    return unstored | {renamed.get(name, name): with_current_names(value) for name, value in stored.items()}


def build(kind: type, values: dict, path: str):
    """An instance of the dataclass `kind` from the JSON values of its fields. Raises ConfigError."""
    types_ = field_types(kind)
    for name in values:
        if name not in types_:
            raise ConfigError(f"{path or kind.__name__}: no field {name!r}{did_you_mean(name, types_)}")
    arguments = {name: from_json(types_[name], value, f"{path}.{name}".lstrip(".")) for name, value in values.items()}
    if missing := missing_fields(kind, arguments):
        raise ConfigError(f"{path or kind.__name__}: {kind.__name__} needs {', '.join(missing)}")
    return kind(**arguments)


def missing_fields(kind: type, names) -> list[str]:
    """Fields that have no default and are not among `names`."""
    none, fields = dataclasses.MISSING, dataclasses.fields(kind)
    return [f.name for f in fields if f.name not in names and f.default is none and f.default_factory is none]


def parse_scalar(choices: tuple, value, path: str):
    """A number, boolean, string or literal. Whole floats pass as integers, integers as floats; nothing else does."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: must be finite, got {value}")
    for choice in choices:
        if typing.get_origin(choice) is typing.Literal and value in typing.get_args(choice):
            return value
        if choice is bool and isinstance(value, bool):
            return value
        if choice is int and isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            return int(value)
        if choice is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if choice is str and isinstance(value, str):
            return value
    expected = " or ".join(describe_type(choice) for choice in choices)
    hint = did_you_mean(
        value, [v for c in choices if typing.get_origin(c) is typing.Literal for v in typing.get_args(c)]
    )
    raise ConfigError(f"{path}: expected {expected}, got {value!r}{hint}")


def describe_type(choice) -> str:
    if typing.get_origin(choice) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(choice)))
    if typing.get_origin(choice) is tuple:
        return "a list"
    names = {type(None): "null", int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return names.get(choice, getattr(choice, "__name__", str(choice)))


def did_you_mean(name, candidates) -> str:
    close = difflib.get_close_matches(str(name), [str(c) for c in candidates], 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def replace_at(config, path: str, text: str):
    """A copy of `config` with the field at a dotted path set from a person's text (JSON, or a bare word).

    A null field on the way becomes its dataclass, where the declared type names one class and that class needs no other
    value. Raises ConfigError.
    """
    try:
        parsed = json.loads(PYTHON_CONSTANTS.get(text, text))
    except ValueError:
        parsed = text

    def replace_in(part, names: list[str], declared):
        if not names:
            only_text = set(union_members(declared)) in ({str}, {str, type(None)} if parsed is not None else {str})
            as_text = only_text and not isinstance(parsed, str)  # 2024 may be a file's name, 50256 a token
            return from_json(declared, text if as_text else parsed, path)
        name, *rest = names
        classes = [c for c in union_members(declared) if dataclasses.is_dataclass(c)]
        if part is None and classes:
            null_path = path.removesuffix("." + ".".join(names))
            if len(classes) > 1 or name not in field_types(classes[0]) or missing_fields(classes[0], [name]):
                raise ConfigError(f"--set {path}: {explain_null(null_path, name, classes)}")
            value = replace_in(None, rest, field_types(classes[0])[name])
            return build(classes[0], {name: to_json(value)}, null_path)
        if isinstance(part, tuple) and name.isdigit() and int(name) < len(part):
            item_type = typing.get_args(union_members(declared)[0])[0]
            return tuple(replace_in(p, rest, item_type) if i == int(name) else p for i, p in enumerate(part))
        if not dataclasses.is_dataclass(part) or name not in field_types(type(part)):
            raise ConfigError(f"--set {path}: no such field{suggest_path(path, leaves(to_json(config)))}")
        return dataclasses.replace(part, **{name: replace_in(getattr(part, name), rest, field_types(type(part))[name])})

    return replace_in(config, path.split("."), type(config))


def explain_null(path: str, name: str, classes: Sequence[type]) -> str:
    """The error text where `name` can't be set below a null field: how to set that field, and the nearest name."""
    hint = did_you_mean(name, [field for c in classes for field in field_types(c)])
    objects = [{"is": c.__name__} | dict.fromkeys(missing_fields(c, ()), "…") for c in classes]
    settings = " or ".join(f"--set {path}='{json.dumps(value, ensure_ascii=False)}'" for value in objects)
    return f"{path} is null; set it first, as {settings}{'' if name in hint else hint}"


def suggest_path(path: str, candidates) -> str:
    """A hint at the nearest path: one with the same last name where there is one, else the nearest by spelling."""
    paths = [c for c in candidates if not c.endswith(".is")]
    same_name = [p for p in paths if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    return f"; did you mean {same_name[0]!r}?" if same_name else did_you_mean(path, paths)


def differences(one, other) -> list[tuple[str, Any, Any]]:
    """(path, one's value, other's value) wherever two configs differ; "-" where one has no such path.

    Takes dataclasses, or what to_json returned for them.
    """
    left, right = leaves(to_json(one)), leaves(to_json(other))
    entries = [(path, left.get(path, "-"), right.get(path, "-")) for path in sorted(left | right)]
    return [entry for entry in entries if entry[1] != entry[2]]


def leaves(value, prefix: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by dotted path."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = ((str(i), v) for i, v in enumerate(value))
    else:
        return {prefix: value}
    result: dict[str, Any] = {}
    for name, child in children:
        result |= leaves(child, f"{prefix}.{name}" if prefix else name)
    return result
