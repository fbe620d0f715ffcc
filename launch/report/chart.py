"""The frame of a chart as SVG: grid, ticks, labels. Its width is the page's: places across are shares of 1000, places
down are pixels. Text and dots stand in an outer SVG at percentages, lines in an inner one that stretches; so text keeps
its size on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element
from launch.report.scale import Scale, tick_labels

WIDTH = 1000.0  # of the inner SVG, whatever the page's
LINE = 15.0  # pixels between labels, one above the other


def across(scale: Scale, value: float) -> str:
    """A place across as a percentage."""
    return f"{scale(value) * 100 / WIDTH:.3f}%"


def place(value: float) -> str:
    """A coordinate with as many decimals as a screen shows, and the reader of the page's figures needs."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def text(content: Markup | str, x: str, y: float, **attributes) -> Markup:
    return element("text", content, x=x, y=place(y), **attributes)


def y_axis(scale: Scale, count: int, units=(), share: bool = False) -> list[Markup]:
    """Lines across at round values, and their labels on the left; `share`: in percent."""
    values = scale.ticks(count)
    parts = []
    for value, label in zip(values, axis_labels(values, units, share), strict=True):
        y = scale(value)
        base = "grid base" if value == scale.low else "grid"
        parts += [
            element("line", x1="0", x2="100%", y1=place(y), y2=place(y), class_=base),
            text(label, "0", y + 4, dx="-7", class_="tick", text_anchor="end"),
        ]
    return parts


def x_axis(scale: Scale, count: int, height: float, units=(), share: bool = False, lines: bool = False) -> list[Markup]:
    """Labels below at round values, with a short stroke each, or lines up the whole chart. Where there is no room for
    all labels, the style hides those that are `odd`."""
    values = scale.ticks(count)
    parts = []
    for number, (value, label) in enumerate(zip(values, axis_labels(values, units, share), strict=True)):
        x, css = across(scale, value), "tick odd" if number % 2 else "tick"
        parts += [
            element("line", x1=x, x2=x, y1="0" if lines else place(height), y2=place(height + 4), class_="grid"),
            text(label, x, height + 17, class_=css, text_anchor="middle"),
        ]
    return parts


def axis_labels(values: list[float], units, share: bool) -> list[str]:
    return [f"{label}%" for label in tick_labels([100 * v for v in values])] if share else tick_labels(values, units)


def stretched(height: float, *parts: Markup | None) -> Markup:
    """What stretches with the chart: polylines and areas in WIDTH x height."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:.0f} {place(height)}",
        preserveAspectRatio="none",
        width="100%",
        height=place(height),
        class_="stretched",
    )


def polyline(points: Sequence[tuple[float, float]], **attributes) -> Markup:
    return element("polyline", points=points_text(points), **attributes)


def polygon(points: Sequence[tuple[float, float]], **attributes) -> Markup:
    return element("polygon", points=points_text(points), **attributes)


def points_text(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{place(x)},{place(y)}" for x, y in points)


def spread(places: Sequence[float], low: float, high: float, distance: float = LINE) -> list[float]:
    """Places moved apart until each is `distance` from the next, within low .. high where they fit; order is kept."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    result = [0.0] * len(places)
    floor = low
    for i in order:
        result[i] = max(places[i], floor)
        floor = result[i] + distance
    ceiling = high
    for i in reversed(order):
        result[i] = min(result[i], ceiling)
        ceiling = result[i] - distance
    return result


def shorten(name: str, limit: int) -> str:
    """A name of at most so many characters; what is left out is in the middle, where names differ least."""
    if len(name) <= limit:
        return name
    head = (limit - 1) * 2 // 3
    return f"{name[:head]}…{name[head + 1 - limit :]}"
