"""The config: where the runs differ, what differs from the defaults, and the whole of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from launch.report.html import Markup, element, table
from launch.report.run_files import RunFiles
from launch.report.section import Section, code, run_heading, sentence
from train import fields

MISSING = dataclasses.MISSING


def settings(runs: Sequence[RunFiles]) -> Section:
    configured = [run for run in runs if run.experiment]
    missing = sentence("No config: these weights were imported, and no training has begun from them.")
    parts: list[Markup | None] = []
    if len(configured) > 1:
        parts += [element("h3", "Differences between the runs"), between(configured)]
    for number, run in enumerate(runs):
        if run.experiment:
            parts += of_run(run, number, len(runs))
    return Section("config", "Config", tuple(parts), missing)


def of_run(run: RunFiles, number: int, runs: int) -> list[Markup | None]:
    """What differs from the defaults, folded where there are several runs, and the whole config, folded."""
    rows = [
        [code(path), value_text(value), value_text(default)] for path, value, default in non_defaults(run.experiment)
    ]
    words, changed = "What is not as by default", table(["field", "value", "default"], rows, class_="config")
    if runs == 1:
        shown = [sentence(f"{words}; where there is no default, a dash.", class_="note"), changed]
    else:
        shown = [element("details", element("summary", words), changed)]
    whole = json.dumps(fields.to_json(run.experiment), indent=1, ensure_ascii=False)
    folded = element("details", element("summary", "The whole config"), element("pre", whole))
    return [run_heading(run.name, number, runs), *shown, folded]


def between(runs: Sequence[RunFiles]) -> Markup:
    """A row for each field in which not all runs are alike."""
    values = [fields.leaves(fields.to_json(run.experiment)) for run in runs]
    paths = sorted({path for own in values for path in own})
    rows = [
        [code(path), *(value_text(own.get(path, MISSING)) for own in values)]
        for path in paths
        if any(own.get(path, MISSING) != values[0].get(path, MISSING) for own in values)
    ]
    if not rows:
        return sentence("None: the configs are the same.", class_="note")
    return table(["field", *(run.name for run in runs)], rows, class_="config")


def non_defaults(config, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value, default) of each leaf of a dataclass that is not its default; MISSING where it has none.

    A dataclass within is compared with the default of its field where both are of one class, else with its class's own
    defaults; then `is` says which class it is.
    """
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield from changes(getattr(config, field.name), default, f"{path}{field.name}")


def changes(value, default, path: str) -> Iterator[tuple[str, Any, Any]]:
    if dataclasses.is_dataclass(value) and type(value) is type(default):
        for field in dataclasses.fields(value):
            yield from changes(getattr(value, field.name), getattr(default, field.name), f"{path}.{field.name}")
    elif dataclasses.is_dataclass(value):
        if default is not MISSING:
            yield f"{path}.is", type(value).__name__, type(default).__name__ if default is not None else None
        yield from non_defaults(value, f"{path}.")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        for number, item in enumerate(value):
            yield from changes(item, MISSING, f"{path}.{number}")
    elif value != default:
        yield path, value, default


def value_text(value) -> str | None:
    if value is MISSING:
        return None
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    return value if isinstance(value, str) and value else json.dumps(fields.to_json(value), ensure_ascii=False)
