"""The chart of samplers: quality against diversity, human text among them. Its labels stand where there is room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from launch.report import chart
from launch.report.html import Markup, element, join
from launch.report.quality import Figure, Measure, Quality, Setting
from launch.report.scale import LogScale, Scale, bounds, log_bounds
from launch.report.section import colour

HEIGHT = 460.0
SUPPOSED_WIDTH = 620.0  # pixels across of the plot, for where labels have room
CHARACTER, LINE = 6.4, 14.0  # pixels of a label's character, and of its line
LOG_FROM = 12.0  # the ratio of the largest value to the smallest from which a chart shows ratios
MORE_DIVERSE_DOWN = ("self_bleu", "rep_", "seq_rep", "loop_rate", "zipf")  # measures that are lower of diverse texts


class Point(NamedTuple):
    """A setting that has both measures, with its number in the file."""

    number: int
    setting: Setting
    x: Figure
    y: Figure


def points_of(quality: Quality) -> list[Point]:
    vertical, across = (measure.name for measure in quality.axes)
    empty = Figure(None, None)
    found = [
        Point(number, setting, setting.figures.get(across, empty), setting.figures.get(vertical, empty))
        for number, setting in enumerate(quality.settings)
    ]
    return [p for p in found if all(f.value is not None and math.isfinite(f.value) for f in (p.x, p.y))]


def make_scales(points: Sequence[Point]) -> tuple[Scale, Scale]:
    """Scales for x and y, which hold all values and intervals; several charts may share them."""
    return scale_of([p.x for p in points], 0.0, chart.WIDTH), scale_of([p.y for p in points], HEIGHT, 0.0)


def scale_of(figures: Sequence[Figure], start: float, stop: float) -> Scale:
    values = [f.value for f in figures]
    ends = values + [end for f in figures for end in f.interval or ()]
    if min(ends) > 0 and max(values) / min(values) >= LOG_FROM:
        return LogScale(*log_bounds(ends), start, stop)
    return Scale(*bounds(ends, 6), start, stop)


def scatter(quality: Quality, x: Scale, y: Scale, prefix: str) -> Markup:
    """The figure. `prefix`: of the ids of the settings' articles, which the script shows beside it."""
    points, (vertical, across) = points_of(quality), quality.axes
    kinds = list(dict.fromkeys(p.setting.kind for p in points if not p.setting.is_human))
    by_kind = {kind: colour(number) for number, kind in enumerate(kinds)}
    human = [p for p in points if p.setting.is_human]
    svg = element(
        "svg",
        *chart.y_axis(y, 6, share=vertical.unit == "share"),
        *chart.x_axis(x, 5, HEIGHT, share=across.unit == "share", lines=True),
        chart.stretched(HEIGHT, front_line(quality, points, x, y)),
        *(mark for p in human for mark in crosshair(p, x, y)),
        *(mark for p in points for mark in interval_bars(p, x, y, by_kind)),
        *(mark(p, x, y, by_kind, quality, prefix) for p in points),
        *labels(points, quality, x, y, by_kind),
        role="img",
        aria_label=f"{vertical.title} against {across.title} of {len(points)} settings; the table below has the values",
        width="100%",
        height=chart.place(HEIGHT + 24),
    )
    return element(
        "figure",
        element("figcaption", *caption(vertical, y), kind_legend(by_kind)),
        element("div", svg, class_="plot"),
        element("p", *axis_words(across, x, diversity_direction(across)), class_="axis-title"),
        class_="chart scatter",
        tabindex="0",
    )


def caption(measure: Measure, scale: Scale) -> list[Markup | str]:
    better = {"lower": "lower is better", "higher": "higher is better"}.get(measure.better or "", "")
    return axis_words(measure, scale, f"↑ {measure.title}" + (f", {better}" if better else ""))


def axis_words(measure: Measure, scale: Scale, words: str) -> list[Markup]:
    unit = ", ".join(filter(None, [measure.unit if measure.unit != "share" else "", log_word(scale)]))
    return [element("b", words), element("span", unit, class_="unit")]


def log_word(scale: Scale) -> str:
    return "equal distances are equal ratios" if isinstance(scale, LogScale) else ""


def diversity_direction(measure: Measure) -> str:
    down = measure.name.startswith(MORE_DIVERSE_DOWN)
    return f"← more diverse   {measure.title}" if down else f"{measure.title}   more diverse →"


def kind_legend(by_kind: dict[str, str]) -> Markup:
    names = [element("span", element("i", class_=f"spot {css}"), kind or "sampler") for kind, css in by_kind.items()]
    return element("span", *names, class_="legend always")


def css_of(point: Point, by_kind: dict[str, str]) -> str:
    return "human" if point.setting.is_human else by_kind[point.setting.kind]


def front_line(quality: Quality, points: Sequence[Point], x: Scale, y: Scale) -> Markup | None:
    """Through the settings that none other beats in both, from left to right."""
    front = sorted((x(p.x.value), y(p.y.value)) for p in points if p.number in quality.frontier)
    return chart.polyline(front, class_="front") if len(front) > 1 else None


def crosshair(human: Point, x: Scale, y: Scale) -> list[Markup]:
    px, py = chart.across(x, human.x.value), chart.place(y(human.y.value))
    return [
        element("line", x1=px, x2=px, y1="0", y2=chart.place(HEIGHT), class_="human-line"),
        element("line", x1="0", x2="100%", y1=py, y2=py, class_="human-line"),
    ]


def interval_bars(point: Point, x: Scale, y: Scale, by_kind: dict[str, str]) -> list[Markup]:
    bars, css = [], f"bar {css_of(point, by_kind)}"
    px, py = chart.across(x, point.x.value), chart.place(y(point.y.value))
    if point.x.interval:
        low, high = (chart.across(x, end) for end in point.x.interval)
        bars.append(element("line", x1=low, x2=high, y1=py, y2=py, class_=css))
    if point.y.interval:
        low, high = (chart.place(y(end)) for end in point.y.interval)
        bars.append(element("line", x1=px, x2=px, y1=low, y2=high, class_=css))
    return bars


def mark(point: Point, x: Scale, y: Scale, by_kind: dict[str, str], quality: Quality, prefix: str) -> Markup:
    """A dot with its title, bigger for human text, in a ring where it is recommended."""
    px, py = chart.across(x, point.x.value), chart.place(y(point.y.value))
    vertical, across = quality.axes
    values = ", ".join(f"{m.title} {m.show(f.value)}" for m, f in ((vertical, point.y), (across, point.x)))
    recommended = point.setting.name == quality.recommended
    ring = element("circle", cx=px, cy=py, r="9", class_="ring") if recommended else None
    on_front = point.number in quality.frontier
    radius = "6" if point.setting.is_human else "4.5" if on_front else "3.5"
    dot = element("circle", cx=px, cy=py, r=radius, class_="dot")
    return element(
        "g",
        element("title", f"{point.setting.label}: {values}"),
        ring,
        dot,
        class_=css_of(point, by_kind),
        data_article=f"{prefix}-{point.number}",
    )


def labels(points, quality: Quality, x: Scale, y: Scale, by_kind: dict[str, str]) -> list[Markup]:
    """Names beside dots, the ones that a reader looks for first, then the frontier's, then others where there is room.
    On a narrow page only the first are shown."""
    marked = {setting.name for setting in quality.marked}
    order = sorted(points, key=lambda p: (p.setting.name not in marked, p.number not in quality.frontier, p.number))
    places = {p.number: (x(p.x.value) / chart.WIDTH * SUPPOSED_WIDTH, y(p.y.value)) for p in points}
    boxes = [(px - 5, py - 5, px + 5, py + 5) for px, py in places.values()]
    found = []
    for p in order:
        name, is_marked = p.setting.label, p.setting.name in marked
        note = " (recommended)" if p.setting.name == quality.recommended else ""
        free = free_place(*places[p.number], name + note, boxes)
        if free is None and not is_marked:
            continue
        anchor, dx, dy, box = free or ("start", 10, 4, None)
        boxes += [box] if box else []
        content = join([name, element("tspan", note, class_="name") if note else None])
        css = f"label {css_of(p, by_kind)}{'' if is_marked else ' name'}"
        px = chart.across(x, p.x.value)
        found.append(chart.text(content, px, places[p.number][1] + dy, dx=dx, text_anchor=anchor, class_=css))
    return found


def free_place(px: float, py: float, name: str, boxes) -> tuple[str, float, float, tuple] | None:
    """The anchor, the offsets and the box of a label that meets no box and stays inside; None where there is none."""
    width = CHARACTER * len(name)
    for anchor, dx, dy in (("start", 10, 4), ("end", -10, 4), ("middle", 0, -10), ("middle", 0, 19)):
        left = px + dx - {"start": 0, "end": width, "middle": width / 2}[anchor]
        box = (left, py + dy - LINE + 3, left + width, py + dy + 3)
        inside = box[0] >= 0 and box[2] <= SUPPOSED_WIDTH + 12 and box[1] >= 0 and box[3] <= HEIGHT
        if inside and not any(meets(box, other) for other in boxes):
            return anchor, dx, dy, box
    return None


def meets(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
