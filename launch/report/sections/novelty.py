"""How much of what a checkpoint writes stands in its training text: new n-grams, copied spans, memorized suffixes."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report import chart
from launch.report.html import Markup, element, table
from launch.report.json_files import Part
from launch.report.numbers import percent
from launch.report.quality import Figure, Quality, Setting
from launch.report.run_files import RunFiles
from launch.report.scale import Scale
from launch.report.section import Section, code, run_heading, sentence
from launch.report.strip import Row, strip

HEIGHT = 260.0
SPANS = 10  # longest copied spans that are shown
LONGEST = 240  # characters of one


def novelty(runs: Sequence[RunFiles]) -> Section:
    folder = runs[0].folder
    missing = sentence(
        "Not measured yet: ", code(f"skald quality {folder}"), " with an index of the training text (",
        code("skald prepare CONFIG --index"), ").",
    )  # fmt: skip
    parts: list[Markup | None] = []
    for number, run in enumerate(runs):
        if run.quality and (own := of_run(run.quality)):
            parts += [run_heading(run.name, number, len(runs)), *own]
    return Section("novelty", "Novelty", tuple(parts), missing)


def of_run(quality: Quality) -> list[Markup | None]:
    measured = [setting for setting in quality.settings if setting.new_ngrams and setting.new_ngrams[0] is not None]
    copied = [setting for setting in quality.settings if setting.longest]
    parts = []
    if measured:
        parts.append(ngram_chart(measured, quality))
    if copied:
        parts += [element("h4", "Longest copied spans"), copied_table(copied, quality)]
    if untraced := quality.file.get("untraced"):
        parts.append(sentence(f"{untraced.text()}.", class_="note"))
    if memorization := quality.file.get("memorization"):
        parts.append(memorization_chart(memorization))
    return parts


def ngram_chart(settings: Sequence[Setting], quality: Quality) -> Markup:
    """The share of new n-grams by n: a line a setting, in grey but for those that a reader looks for."""
    longest = max(len(setting.new_ngrams) for setting in settings)
    x, y = Scale(1, max(longest, 2), 0.0, chart.WIDTH), Scale(0.0, 1.0, HEIGHT, 0.0)
    marked = [setting for setting in quality.marked if setting in settings]
    others = [setting for setting in settings if setting not in marked]
    css = {s.name: "human" if s.is_human else "c1" if s.name == quality.recommended else "c0" for s in marked}
    lines = [line(setting, x, y, "light grey") for setting in others]
    lines += [line(setting, x, y, f"bold {css[setting.name]}") for setting in reversed(marked)]
    svg = element(
        "svg",
        *chart.y_axis(y, 5, share=True),
        *n_axis(x, longest),
        chart.stretched(HEIGHT, *lines),
        *end_labels(marked, y, css, quality),
        element("line", x1="0", x2="0", y1="0", y2=chart.place(HEIGHT), class_="cursor"),
        role="img",
        aria_label="Share of n-grams that are not in training: " + "; ".join(map(in_words, marked)),
        width="100%",
        height=chart.place(HEIGHT + 24),
    )
    words = element("span", "share that stands nowhere in training, by n; grey: the other samplers", class_="unit")
    heading = element("figcaption", element("b", "New n-grams"), words)
    table_of = [[setting.label, *map(percent, setting.new_ngrams)] for setting in settings]
    details = element(
        "details",
        element("summary", "As a table"),
        table(["n", *map(str, range(1, longest + 1))], table_of, class_="numbers"),
    )
    reading = element("output", class_="reading", aria_live="polite")
    return element(
        "figure",
        heading,
        element("div", svg, class_="plot"),
        reading,
        details,
        class_="chart lines",
        tabindex="0",
        data_x=f"{x.low} {x.high}",
        data_y="0 100",
        data_height=chart.place(HEIGHT),
        data_what="-grams",
        data_unit="%",
    )


def line(setting: Setting, x: Scale, y: Scale, css: str) -> Markup:
    points = [(x(n), y(share)) for n, share in enumerate(setting.new_ngrams, 1) if share is not None]
    label = None if "grey" in css else setting.label
    return element("g", element("title", setting.label), chart.polyline(points, class_=css, data_label=label))


def n_axis(x: Scale, longest: int) -> list[Markup]:
    shown = [n for n in range(1, longest + 1) if n == 1 or n % 4 == 0]
    return [chart.text(str(n), chart.across(x, n), HEIGHT + 17, class_="tick", text_anchor="middle") for n in shown]


def end_labels(marked: Sequence[Setting], y: Scale, css: dict[str, str], quality: Quality) -> list[Markup]:
    """Names beside the curves where they are farthest apart: at the n in whose column the marked values spread most."""
    if not marked:
        return []
    lengths = [len([share for share in setting.new_ngrams if share is not None]) for setting in marked]
    ns = range(max(min(lengths), 1))
    widest = max(ns, key=lambda n: max(s.new_ngrams[n] for s in marked) - min(s.new_ngrams[n] for s in marked))
    places = chart.spread([y(setting.new_ngrams[widest]) for setting in marked], 10, HEIGHT - 4, 17)
    x = Scale(1, max(max(len(s.new_ngrams) for s in quality.settings), 2), 0.0, 100.0)
    return [
        chart.text(setting.label, f"{x(widest + 1):.2f}%", place + 4, dx="9", class_=f"label {css[setting.name]}")
        for setting, place in zip(marked, places, strict=True)
    ]


def in_words(setting: Setting) -> str:
    return f"{setting.label}: " + ", ".join(f"{n} {percent(share)}" for n, share in enumerate(setting.new_ngrams, 1))


def copied_table(copied: Sequence[Setting], quality: Quality) -> Markup:
    """The longest span of each setting, the longest first; human text and the recommended setting are always there."""
    order = sorted(copied, key=lambda setting: -setting.longest.tokens)
    keep = {setting.name for setting in (*order[:SPANS], *quality.marked)}
    rows = [
        [code(s.label), f"{s.longest.tokens:,}", s.longest.source, shorten(s.longest.text)]
        for s in order
        if s.name in keep
    ]
    return table(["sampler", "tokens", "stands in", "text"], rows, class_="spans")


def memorization_chart(found: Part) -> Markup:
    """The share of passages whose next tokens the model writes word for word: of random places, and by how often it has
    read them."""
    rows = []
    for part in (*found["random"].list(), *found["by_times_seen"].list()):
        given, texts, seen = part["prompt_tokens"].whole(), part["texts"].whole(), part.get("seen")
        where = f"read {times(*seen.range())}" if seen else "any"
        figure = Figure(part["share"].number(), part["interval"].range())
        css = "c0" if seen else "ink-dark"
        rows.append(
            ((given, bool(seen)), Row(f"{given} given, {where} ({texts:,})", figure, percent(figure.value), css))
        )
    suffix = found["suffix_tokens"].whole()
    words = (
        f"share of training passages whose next {suffix} tokens greedy decoding writes word for word, by "
        "the tokens that are given and how often they were read in training"
    )
    return strip("Memorization", words, [row for _, row in sorted(rows, key=lambda pair: pair[0])])


def times(low: float, high: float) -> str:
    """How often a text was read, from `low` to below `high`."""
    return f"{low:g}–{high:g}×" if low else f"<{high:g}×"


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return f"{text[:LONGEST]}…" if len(text) > LONGEST else text
