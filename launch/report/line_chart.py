"""Curves over the tokens of training, several in one chart, with what a pointer or the arrow keys read off them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.report import chart
from launch.report.html import Markup, element
from launch.report.numbers import COUNT_UNITS, compact, significant
from launch.report.scale import Scale, bounds, finite
from launch.report.thinning import POINTS, Bin, thin

X_TICKS, Y_TICKS = 4, 5
DOTTED = 40  # a curve of at most so many values has a dot for each


@dataclass(frozen=True)
class Curve:
    """One curve: rising `xs` in tokens, `ys` that may not be finite. `colour`: the number of its run.

    `light`: drawn thin, below the others.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str
    light: bool = False


def line_chart(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    height: float = 220,
    from_zero: bool = False,
    clips: bool = False,
    units=(),
) -> Markup | None:
    """A figure with all curves that have values; None where none has. `units`: names of thousands on the y axis.

    `clips`: a few values that lie far above all others do not set the scale; an arrow says where and how large.
    """
    curves = [curve for curve in curves if any(map(math.isfinite, curve.ys))]
    if not curves:
        return None
    bins = [thin(curve.xs, curve.ys) for curve in curves]
    ends = finite(end for own in bins for b in own for end in (b.low, b.high))
    x = Scale(*x_bounds(curves), 0.0, chart.WIDTH)
    y = Scale(*bounds(usual_values(ends) if clips else ends, Y_TICKS, from_zero), height, 0.0)
    beyond, shown = clip(bins, y)
    drawn = [mark for curve, own in zip(curves, shown, strict=True) for mark in draw(curve, own, x, y)]
    svg = element(
        "svg",
        *chart.y_axis(y, Y_TICKS, units=units),
        *chart.x_axis(x, X_TICKS, height, COUNT_UNITS),
        chart.stretched(height, *drawn),
        *dots(curves, shown, x, y),
        *bad_marks(curves, bins, x, height),
        *(beyond_mark(b, x, y) for b in beyond),
        *end_labels(curves, bins, y, height, units),
        element("line", x1="0", x2="0", y1="0", y2=chart.place(height), class_="cursor"),
        role="img",
        aria_label=f"{title}. {'; '.join(map(in_words, curves, bins))}",
        width="100%",
        height=chart.place(height + 24),
    )
    notes = bad_note(curves, bins)
    return element(
        "figure",
        element("figcaption", element("b", title), element("span", unit, class_="unit"), legend(curves)),
        element("div", svg, class_="plot"),
        element("output", class_="reading", aria_live="polite"),
        element("p", notes, class_="note") if notes else None,
        class_="chart lines",
        tabindex="0",
        data_x=f"{x.low!r} {x.high!r}",
        data_y=f"{y.low!r} {y.high!r}",
        data_height=chart.place(height),
    )


def x_bounds(curves: Sequence[Curve]) -> tuple[float, float]:
    """From the first token or, in a chart of a late part, from its beginning, to the last."""
    first, last = min(curve.xs[0] for curve in curves), max(curve.xs[-1] for curve in curves)
    low = 0.0 if first <= last / 4 else first
    return (low, last) if last > low else (low - 0.5, low + 0.5)


def draw(curve: Curve, bins: Sequence[Bin], x: Scale, y: Scale) -> list[Markup]:
    """The band of a thinned curve, and a line through its means; both have gaps where no value is finite."""
    marks = []
    width = "light" if curve.light else "bold"
    for good, group in itertools.groupby(bins, key=lambda b: math.isfinite(b.mean)):
        part = list(group)
        if not good:
            continue
        if any(b.high > b.low for b in part):
            upper = [(x(b.x), y(b.high)) for b in part]
            lower = [(x(b.x), y(b.low)) for b in reversed(part)]
            marks.append(chart.polygon(upper + lower, class_=f"band {curve.colour}"))
        line = [(x(b.x), y(b.mean)) for b in part] * (2 if len(part) == 1 else 1)  # a line of one point is not drawn
        marks.append(chart.polyline(line, class_=f"{width} {curve.colour}", data_label=curve.label))
    return marks


def dots(curves, bins, x: Scale, y: Scale) -> list[Markup]:
    return [
        element("circle", cx=chart.across(x, b.x), cy=chart.place(y(b.mean)), r="2.5", class_=f"dot {curve.colour}")
        for curve, own in zip(curves, bins, strict=True)
        if len(own) <= DOTTED
        for b in own
        if math.isfinite(b.mean)
    ]


def bad_marks(curves, bins, x: Scale, height: float) -> list[Markup]:
    """A cross on the axis wherever a value is not finite."""
    return [
        chart.text("×", chart.across(x, b.x), height + 4, class_=f"bad {curve.colour}", text_anchor="middle")
        for curve, own in zip(curves, bins, strict=True)
        for b in own
        if b.bad
    ]


def usual_values(ends: list[float]) -> list[float]:
    """Those that set the scale: without what lies farther above the middle nine tenths than these span."""
    order = sorted(ends)
    cut = len(order) // 20
    low, high = order[cut], order[-1 - cut]
    return [end for end in order if end <= 2 * high - low] if high > low else order


def clip(bins: Sequence[Sequence[Bin]], y: Scale) -> tuple[list[Bin], list[list[Bin]]]:
    """The bins that reach above the scale, the highest of each stretch of the chart, and all bins cut to the scale."""
    above = sorted(b for own in bins for b in own if b.high > y.high)
    last = max((own[-1].x for own in bins), default=1.0)
    stretches = itertools.groupby(above, key=lambda b: int(4 * b.x / last))
    highest = [max(stretch, key=lambda b: b.high) for _, stretch in stretches]
    return highest, [
        [b._replace(**{name: min(max(value, y.low), y.high) for name, value in shape(b)}) for b in own] for own in bins
    ]


def shape(b: Bin) -> list[tuple[str, float]]:
    return [("low", b.low), ("mean", b.mean), ("high", b.high)] if math.isfinite(b.mean) else []


def beyond_mark(b: Bin, x: Scale, y: Scale) -> Markup:
    words = f"↑ {significant(b.high, 3)}"
    at_end = x(b.x) > 0.8 * chart.WIDTH
    side = {"dx": "-5", "text_anchor": "end"} if at_end else {"dx": "5", "text_anchor": "start"}
    return chart.text(words, chart.across(x, b.x), 11, class_="tick beyond", **side)


def end_labels(curves, bins, y: Scale, height: float, units) -> list[Markup]:
    """The name and the value of each curve's line at its end, moved apart. On a narrow page a legend has the names."""
    last = [next(b.mean for b in reversed(own) if math.isfinite(b.mean)) for own in bins]
    places = chart.spread([y(min(max(end, y.low), y.high)) + 4 for end in last], 8, height + 4)
    return [
        chart.text(
            Markup(element("tspan", f"{chart.shorten(curve.label, 18)} ", class_="name") + show(value, units)),
            "100%",
            place,
            dx="8",
            class_=f"label {curve.colour}{' light' if curve.light else ''}",
        )
        for curve, value, place in zip(curves, last, places, strict=True)
    ]


def show(value: float, units) -> Markup:
    return element("tspan", compact(value, 3, units) if units else significant(value, 4 if abs(value) >= 0.1 else 3))


def legend(curves: Sequence[Curve]) -> Markup | None:
    """The names with their colours, shown where there is no room for them at the curves' ends."""
    if len(curves) < 2:
        return None
    names = (
        element("span", element("i", class_=f"swatch {c.colour}{' light' if c.light else ''}"), c.label) for c in curves
    )
    return element("span", *names, class_="legend")


def in_words(curve: Curve, bins: Sequence[Bin]) -> str:
    values = [value for value in curve.ys if math.isfinite(value)]
    return (
        f"{curve.label}: from {significant(values[0])} to {significant(values[-1])}, "
        f"{compact(curve.xs[-1])} tokens; between {significant(min(values))} and {significant(max(values))}"
    )


def thinned_note(curves: Sequence[Curve]) -> str:
    """How long curves are drawn; nothing where none is."""
    most = max((len(curve.xs) for curve in curves), default=0)
    if most <= POINTS:
        return ""
    each = round(most / POINTS)
    return (
        f"Here and below a long curve's line is the mean of {each} steps each, and its band reaches from the smallest "
        "to the largest of them."
    )


def bad_note(curves: Sequence[Curve], bins: Sequence[Sequence[Bin]]) -> str:
    bad = sum(b.bad for own in bins for b in own)
    return f"× marks where {bad} {'value is' if bad == 1 else 'values are'} not finite." if bad else ""
