"""Config dataclasses as data: to and from JSON, by dotted path, compared. Used by launch/ and train/.

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

PYTHON = {"None": "null", "True": "true", "False": "false"}  # as people write them on a command line

RENAMED = {"Execution": {"turned": "transposed"}}  # by class: fields that runs of earlier versions have stored


class ConfigError(ValueError):
    """A config that cannot be: one line with the path, the value and what would work. Exit status 2."""


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Field name -> declared type."""
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))


def union_members(declared) -> tuple:
    """The alternatives of a union, or the one type itself."""
    union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    return typing.get_args(declared) if union else (declared,)


def to_json(value):
    """Dataclasses as objects with `is`, tuples as lists."""
    if dataclasses.is_dataclass(value):
        inside = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **inside}
    return [to_json(v) for v in value] if isinstance(value, tuple | list) else value


def from_json(declared, value, path: str = ""):
    """The value of a declared type from what to_json wrote, or from a person's text. Raises ConfigError."""
    choices = union_members(declared)
    if value is None and type(None) in choices:
        return None
    if typing.get_origin(choices[0]) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(choices[0])[0]
        return tuple(from_json(inner, v, f"{path}.{i}") for i, v in enumerate(value))
    classes = {c.__name__: c for c in choices if dataclasses.is_dataclass(c)}
    if classes and isinstance(value, dict):
        kind = classes.get(value.get("is", next(iter(classes)) if len(classes) == 1 else ""))
        if kind is None:
            raise ConfigError(f"{path}: expected one of {', '.join(classes)}, got {value.get('is')!r}")
        return build(kind, {k: v for k, v in value.items() if k != "is"}, path)
    if isinstance(value, str) and value.lower() in (names := {n.lower(): c for n, c in classes.items()}):
        return build(names[value.lower()], {}, path)
    return parse_scalar(choices, value, path)


def with_current_names(stored):
    """JSON that `to_json` of an earlier version wrote, its renamed fields under the names they have now."""
    if isinstance(stored, list):
        return [with_current_names(value) for value in stored]
    if not isinstance(stored, dict):
        return stored
    renamed = RENAMED.get(stored.get("is"), {})
    return {renamed.get(name, name): with_current_names(value) for name, value in stored.items()}


def build(kind: type, given: dict, path: str):
    types_ = field_types(kind)
    for name in given:
        if name not in types_:
            raise ConfigError(f"{path or kind.__name__}: no field {name!r}{did_you_mean(name, types_)}")
    made = {name: from_json(types_[name], value, f"{path}.{name}".lstrip(".")) for name, value in given.items()}
    if lacking := missing_fields(kind, made):
        raise ConfigError(f"{path or kind.__name__}: {kind.__name__} needs {', '.join(lacking)}")
    return kind(**made)


def missing_fields(kind: type, given) -> list[str]:
    """Fields that have no default and are not given."""
    nothing, fields = dataclasses.MISSING, dataclasses.fields(kind)
    return [f.name for f in fields if f.name not in given and f.default is nothing and f.default_factory is nothing]


def parse_scalar(choices: tuple, value, path: str):
    """A number, truth value, string or literal. Whole floats pass as integers, integers as floats; nothing else."""
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
    wanted = " or ".join(describe_type(choice) for choice in choices)
    close = did_you_mean(
        value, [v for c in choices if typing.get_origin(c) is typing.Literal for v in typing.get_args(c)]
    )
    raise ConfigError(f"{path}: expected {wanted}, got {value!r}{close}")


def describe_type(choice) -> str:
    if typing.get_origin(choice) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(choice)))
    names = {type(None): "null", int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return names.get(choice, getattr(choice, "__name__", str(choice)))


def did_you_mean(name, known) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def replace_at(config, path: str, text: str):
    """`config` with the field at `path` set from a person's text (JSON, or a bare word). Raises ConfigError.

    A field below a null one makes the dataclass, where the declared type leaves no choice and nothing else is needed.
    """
    try:
        value = json.loads(PYTHON.get(text, text))
    except ValueError:
        value = text

    def inside(part, steps: list[str], declared):
        if not steps:
            bare = union_members(declared) == (str,) and not isinstance(value, str)  # 2024 may be a file's name
            return from_json(declared, text if bare else value, path)
        name, *rest = steps
        classes = [c for c in union_members(declared) if dataclasses.is_dataclass(c)]
        if part is None and classes:
            here = path.removesuffix("." + ".".join(steps))
            if len(classes) > 1 or name not in field_types(classes[0]) or missing_fields(classes[0], [name]):
                raise ConfigError(f"--set {path}: {explain_null(here, name, classes)}")
            made = inside(None, rest, field_types(classes[0])[name])
            return build(classes[0], {name: to_json(made)}, here)
        if isinstance(part, tuple) and name.isdigit() and int(name) < len(part):
            inner = typing.get_args(union_members(declared)[0])[0]
            return tuple(inside(p, rest, inner) if i == int(name) else p for i, p in enumerate(part))
        if not dataclasses.is_dataclass(part) or name not in field_types(type(part)):
            raise ConfigError(f"--set {path}: no such field{suggest_path(path, leaves(to_json(config)))}")
        return dataclasses.replace(part, **{name: inside(getattr(part, name), rest, field_types(type(part))[name])})

    return inside(config, path.split("."), type(config))


def explain_null(path: str, name: str, classes: Sequence[type]) -> str:
    """What to say where a field of null was to be set: how to set the whole, and the nearest field."""
    close = did_you_mean(name, [field for c in classes for field in field_types(c)])
    wholes = [{"is": c.__name__} | dict.fromkeys(missing_fields(c, ()), "…") for c in classes]
    ways = " or ".join(f"--set {path}='{json.dumps(whole, ensure_ascii=False)}'" for whole in wholes)
    return f"{path} is null; set it first, as {ways}{'' if name in close else close}"


def suggest_path(path: str, known) -> str:
    """The nearest path: by its last name where one field has it, else by spelling."""
    known = [k for k in known if not k.endswith(".is")]
    same = [k for k in known if k.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    return f"; did you mean {same[0]!r}?" if same else did_you_mean(path, known)


def differences(one, other) -> list[tuple[str, Any, Any]]:
    """(path, one's value, other's value) wherever two configs differ; "-" where one has no such path.

    Takes dataclasses, or what to_json made of them.
    """
    left, right = leaves(to_json(one)), leaves(to_json(other))
    pairs = [(path, left.get(path, "-"), right.get(path, "-")) for path in sorted(left | right)]
    return [pair for pair in pairs if pair[1] != pair[2]]


def leaves(value, prefix: str = "") -> dict[str, Any]:
    """Path -> leaf of a JSON value."""
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = ((str(i), v) for i, v in enumerate(value))
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, part in inside:
        found |= leaves(part, f"{prefix}.{name}" if prefix else name)
    return found
