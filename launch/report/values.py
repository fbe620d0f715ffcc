"""Any JSON object as lists and tables, for what the page has no picture of."""

from __future__ import annotations

from launch.report.html import Markup, element, table
from launch.report.json_files import Part
from launch.report.numbers import interval, significant

DEPTH = 3  # of objects in objects


def described(part: Part, depth: int = 0) -> Markup:
    """An object: its single values in a line each, its lists of objects as tables, its objects below their names."""
    single, inner = [], []
    for name, value in part.items():
        title = name.replace("_", " ")
        rows = value.value if isinstance(value.value, list) else None
        if rows and all(isinstance(row, dict) for row in rows):
            inner += [element("h5", title), objects_table(value.list())]
        elif isinstance(value.value, dict) and value.value and depth < DEPTH:
            same = all(isinstance(one, dict) for one in value.value.values())
            content = named_table(value) if same else described(value, depth + 1)
            inner += [element("h5", title), content]
        else:
            single += [element("dt", title), element("dd", show(value.value))]
    return element("div", element("dl", *single, class_="about") if single else None, *inner)


def objects_table(parts: list[Part]) -> Markup:
    names = list(dict.fromkeys(name for part in parts for name in part.value))
    rows = [[show(part.value.get(name)) for name in names] for part in parts]
    return table([name.replace("_", " ") for name in names], rows, class_="numbers")


def named_table(part: Part) -> Markup:
    """An object of objects: a row for each."""
    inner = [(name, one.expect(dict)) for name, one in part.items()]
    names = list(dict.fromkeys(name for _, one in inner for name in one))
    rows = [[title, *(show(one.get(name)) for name in names)] for title, one in inner]
    return table(["", *(name.replace("_", " ") for name in names)], rows, class_="numbers")


def show(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return significant(value)
    if isinstance(value, list):
        ends = len(value) == 2 and all(isinstance(end, int | float) for end in value)
        return interval(value) if ends else ", ".join(map(show, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(one)}" for name, one in value.items())
    return str(value)
