"""Whether a checkpoint's texts stay in the intervals that human text spans, measure by measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.report import chart
from launch.report.html import Markup, element, join
from launch.report.json_files import Part
from launch.report.origin import origin
from launch.report.quality import Measure, read_measure
from launch.report.run_files import RunFiles
from launch.report.scale import Scale
from launch.report.section import Section, code, run_heading, sentence

ROOM = 1.0  # widths of the human interval on each side of it, at least


def gate(runs: Sequence[RunFiles]) -> Section:
    missing = sentence("Not tried yet: ", code(f"skald quality {runs[0].folder} --gate"), ".")
    parts: list[Markup | None] = []
    for number, run in enumerate(runs):
        if run.gate and run.gate.get("gate"):
            parts += [run_heading(run.name, number, len(runs)), *of_run(run.gate, run.folder)]
    return Section("gate", "Gate", tuple(parts), missing)


def of_run(file: Part, folder: Path) -> list[Markup]:
    """The verdict, what it is of, and a row for each measure."""
    result, default = file["gate"], file.get("default")
    titled = {name: read_measure(name, part) for name, part in file["measures"].items()}
    measures = list(result["measures"].items())
    outside = [name for name, part in measures if not part["inside"].flag()]
    known = {name: titled.get(name, Measure(name, name, "", "", "", None)) for name, _ in measures}
    if result["passed"].flag():
        verdict = "Passed: every measure lies in the interval that human text spans."
    else:
        left = ", ".join(known[name].title for name in outside)
        verdict = f"Failed: {len(outside)} of {len(measures)} measures left the interval that human text spans: {left}."
    if default and default.text():
        verdict = f"Of the default sampler, {default.text()}. {verdict}"
    rows = [gate_row(known[name], part) for name, part in measures]
    head = element(
        "tr",
        *(
            element("th", text, scope="col")
            for text in ("measure", "value", "human text", "in the human band", "verdict")
        ),
    )
    body = element("table", element("thead", head), element("tbody", *rows), class_="gate")
    notes = [sentence(words, class_="note") for words in (*short_texts(result), *origin(file, folder))]
    return [sentence(element("b", verdict)), *notes, element("div", body, class_="scroll")]


def short_texts(result: Part) -> list[str]:
    """Whether the texts that were compared had to be cut short, in a sentence."""
    too_short, human = result.get("too_short"), result.get("human_tokens")
    if not (too_short and too_short.flag()):
        return []
    people = f"; people's have {human.whole():,}" if human else ""
    return [f"A tenth of the texts or more end before token {result['tokens'].whole() + 1:,}{people}."]


def gate_row(measure: Measure, part: Part) -> Markup:
    value, low_high, inside = part.get("value"), part["interval"].range(), part["inside"].flag()
    number = value.number() if value else None
    mark = join(
        [
            element("span", "✓" if inside else "✗", aria_hidden="true"),
            element("span", " inside" if inside else " outside", class_="word"),
        ]
    )
    cells = (measure.show(number), measure.show_interval(low_high), picture(number, low_high, inside))
    data = [element("td", cell) for cell in cells]
    verdict = element("td", mark, class_="inside" if inside else "outside")
    return element("tr", element("th", measure.title, scope="row"), *data, verdict)


def picture(value: float | None, low_high: tuple[float, float], inside: bool) -> Markup:
    """The human interval as a grey band in the middle third, the value as a dot, at the edge where it is far off."""
    low, high = low_high
    width = (high - low) or abs(high) or 1.0
    x = Scale(low - ROOM * width, high + ROOM * width, 0.0, chart.WIDTH)
    left, right = chart.across(x, low), f"{(x(high) - x(low)) * 100 / chart.WIDTH:.3f}%"
    parts = [
        element("line", x1="0", x2="100%", y1="9", y2="9", class_="grid"),
        element("rect", x=left, width=right, y="4", height="10", class_="human-band"),
    ]
    if value is not None:
        place = min(max(x(value), 0.0), chart.WIDTH)
        far = place != x(value)
        shape = {"cx": f"{place * 100 / chart.WIDTH:.3f}%", "cy": "9", "r": "4.5"}
        parts.append(
            element("circle", **shape, class_=f"dot {'inside' if inside else 'outside'}{' far' if far else ''}")
        )
    return element("svg", *parts, width="100%", height="18", aria_hidden="true", class_="strip-cell")
