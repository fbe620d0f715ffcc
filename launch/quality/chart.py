"""The frontier as a chart of plain characters: quality upwards, diversity to the right, settings by their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

HEIGHT, MARGIN = 20, 9  # rows of the plot; columns of the numbers at its left


class Point(NamedTuple):
    """A setting: what stands in its place, as `12` or `H`, and whether it is on the front."""

    label: str
    x: float
    y: float
    on_front: bool = False

    @property
    def mark(self) -> str:
        return f"{self.label}*" if self.on_front else self.label


class Axis(NamedTuple):
    """`title`: what it shows. `lower_is_better`: then its values fall upwards, or to the right. `log`: of its scale."""

    title: str
    lower_is_better: bool = False
    log: bool = False

    def scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def value(self, scaled: float) -> float:
        return math.exp(scaled) if self.log else scaled


def draw_chart(points: Sequence[Point], x: Axis, y: Axis, width: int = 80) -> list[str]:
    """The lines of the chart. A point whose place is taken moves to the nearest free one; those with a value that is
    not finite are left out. No line where there is none left."""
    finite = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    shown = [point._replace(x=x.scaled(point.x), y=y.scaled(point.y)) for point in finite]
    if not shown:
        return []
    columns = width - MARGIN - 2
    left, right = limits([point.x for point in shown], x)
    bottom, top = limits([point.y for point in shown], y)
    rows = [[" "] * columns for _ in range(HEIGHT)]
    for point in shown:
        column = round((point.x - left) / (right - left) * (columns - 1)) - len(point.mark) // 2
        row = round((top - point.y) / (top - bottom) * (HEIGHT - 1))
        place(rows, min(max(row, 0), HEIGHT - 1), min(max(column, 0), columns - len(point.mark)), point.mark)
    return [y.title, *rows_with_ticks(rows, y, bottom, top), *x_axis_lines(x, left, right, columns)]


def rows_with_ticks(rows: list[list[str]], y: Axis, bottom: float, top: float) -> list[str]:
    ticks = {0: top, HEIGHT // 2: (top + bottom) / 2, HEIGHT - 1: bottom}
    shown = {number: f"{y.value(scaled):.4g}" for number, scaled in ticks.items()}
    return [f"{shown.get(number, ''):>{MARGIN - 1}} |{''.join(row)}".rstrip() for number, row in enumerate(rows)]


def x_axis_lines(x: Axis, left: float, right: float, columns: int) -> list[str]:
    ends = [f"{x.value(scaled):.3g}" for scaled in (left, right)]
    room = columns - sum(map(len, ends))
    return [f"{'':{MARGIN}}+{'-' * columns}", f"{'':{MARGIN + 1}}{ends[0]}{x.title[: room - 2]:^{room}}{ends[1]}"]


def limits(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    """The values at the beginning and at the end of an axis, with a little room; never equal."""
    low, high = min(values), max(values)
    room = (high - low) * 0.03 or abs(high) * 0.1 or 1.0
    return (high + room, low - room) if axis.lower_is_better else (low - room, high + room)


def place(rows: list[list[str]], row: int, column: int, mark: str) -> None:
    """Writes a mark at the free place nearest to this one, with a free column on each side; over others if there is
    none."""
    columns = len(rows[0])

    def is_free(r: int, c: int) -> bool:
        before, behind = max(c - 1, 0), min(c + len(mark) + 1, columns)
        return (
            0 <= r < len(rows) and 0 <= c <= columns - len(mark) and rows[r][before:behind] == [" "] * (behind - before)
        )

    near = [(abs(dr) * 3 + abs(dc), dr, dc) for dr in range(-3, 4) for dc in range(-9, 10)]
    free = next(
        ((row + dr, column + dc) for _, dr, dc in sorted(near) if is_free(row + dr, column + dc)), (row, column)
    )
    rows[free[0]][free[1] : free[1] + len(mark)] = mark
