"""Rows of dots with intervals on one scale, with lines at values to compare with: a Cleveland dot plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.report import chart
from launch.report.html import Markup, element, join
from launch.report.quality import Figure
from launch.report.scale import Scale, bounds

ROW = 21.0  # pixels
LABEL = 28  # characters for which there is room, on a phone, too


@dataclass(frozen=True)
class Row:
    """A label, a value with its interval, and the text at the end of the row. `css`: a class of colours."""

    label: str
    figure: Figure
    shown: str
    css: str = "c0"


def strip(
    title: str,
    unit: str,
    rows: Sequence[Row],
    reference: float | None = None,
    share: bool = True,
    from_zero: bool = True,
) -> Markup:
    """A figure with a row for each value. `reference`: a value that gets a line down the chart."""
    ends = [
        end for row in rows for end in (row.figure.value, *(row.figure.interval or ()), reference) if end is not None
    ]
    x = Scale(*bounds(ends, 5, from_zero), 0.0, chart.WIDTH)
    height = ROW * len(rows)
    svg = element(
        "svg",
        *chart.x_axis(x, 4, height, share=share, lines=True),
        reference_line(x, reference, height),
        *(mark for number, row in enumerate(rows) for mark in draw(row, (number + 0.5) * ROW, x)),
        role="img",
        aria_label=f"{title}: " + "; ".join(f"{row.label} {row.shown}" for row in rows),
        width="100%",
        height=chart.place(height + 24),
    )
    heading = element("figcaption", element("b", title), element("span", unit, class_="unit"))
    return element("figure", heading, element("div", svg, class_="plot rows"), class_="chart strip")


def reference_line(x: Scale, value: float | None, height: float) -> Markup | None:
    if value is None:
        return None
    place = chart.across(x, value)
    return element("line", x1=place, x2=place, y1="0", y2=chart.place(height), class_="human-line")


def draw(row: Row, y: float, x: Scale) -> list[Markup]:
    whole = element("title", row.label) if len(row.label) > LABEL else None
    name = join([whole, chart.shorten(row.label, LABEL)])
    label = chart.text(name, "0", y + 4, dx="-8", text_anchor="end", class_=f"row-label {row.css}")
    shown = chart.text(row.shown, "100%", y + 4, dx="8", class_="value")
    if row.figure.value is None or not math.isfinite(row.figure.value):
        return [label, shown]
    bar = None
    if row.figure.interval:
        low, high = (chart.across(x, end) for end in row.figure.interval)
        bar = element("line", x1=low, x2=high, y1=chart.place(y), y2=chart.place(y), class_=f"bar {row.css}")
    dot = element("circle", cx=chart.across(x, row.figure.value), cy=chart.place(y), r="4", class_=f"dot {row.css}")
    return [mark for mark in (label, bar, dot, shown) if mark]
