"""What texts hold besides quality: insults by sampler, with the list's audit, and stereotypes by CrowS-Pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from launch.report.html import Markup, element, join, table
from launch.report.json_files import Part
from launch.report.numbers import percent, significant
from launch.report.quality import Figure, Quality, Setting
from launch.report.run_files import RunFiles
from launch.report.section import Section, code, run_heading, sentence
from launch.report.strip import Row, strip

TOXICITY = "toxicity_rate"
CONTEXTS = 3  # matches of a word that are shown


def risk(runs: Sequence[RunFiles]) -> Section:
    missing = sentence("Not measured yet: ", code(f"skald quality {runs[0].folder}"), " measures it beside quality.")
    parts: list[Markup | None] = []
    for number, run in enumerate(runs):
        if run.quality and (own := list(of_run(run.quality))):
            parts += [run_heading(run.name, number, len(runs)), *own]
    return Section("risk", "Risk", tuple(parts), missing)


def of_run(quality: Quality) -> Iterator[Markup]:
    if any(TOXICITY in setting.figures for setting in quality.settings):
        yield toxicity_chart(quality)
    found = quality.file.get("risk")
    toxicity, pairs = (found and found.get(name) for name in ("toxicity", "crows_pairs"))
    if toxicity and (audit := toxicity.get("audit")):
        yield audit_table(audit)
    if pairs:
        yield from stereotypes(pairs)


def toxicity_chart(quality: Quality) -> Markup:
    """The rate of each setting in the order of diversity, so that its price is seen; human text as a line."""
    across = quality.axes[1]
    empty = Figure(None, None)

    def diversity(setting: Setting) -> float:
        value = setting.figures.get(across.name, empty).value
        return -math.inf if value is None else value

    measured = sorted((s for s in quality.settings if TOXICITY in s.figures), key=diversity)
    rows = [
        Row(
            setting.label,
            setting.figures[TOXICITY],
            percent(setting.figures[TOXICITY].value),
            "human" if setting.is_human else "c1" if setting.name == quality.recommended else "c0",
        )
        for setting in measured
    ]
    human = quality["human"]
    reference = human.figures[TOXICITY].value if human and TOXICITY in human.figures else None
    words = f"share of texts that hold a word of the list, by {across.title}; the line is human text"
    if quality.recommended is not None:
        words += ", bold is recommended"
    return strip("Toxicity", words, rows, reference)


def audit_table(audit: Part) -> Markup:
    """The words of the list that human text holds, too, with what stands around them there."""
    words = audit["words"].list()
    if not words:
        return sentence("Audit: no word of the list stands in the human text.", class_="note")
    rows = [[code(word["word"].text()), percent(word["share"].number()), contexts(word)] for word in words]
    note = "Audit: words of the list that people wrote here, so that each can be judged where it stands."
    content = table(["word", "of human texts", "where"], rows, class_="spans")
    return element("div", element("p", note, class_="note"), content)


def contexts(word: Part) -> Markup:
    found = word.get("contexts")
    shown = [
        element("div", one["before"].text(), element("b", one["match"].text()), one["after"].text())
        for one in (found.list() if found else [])[:CONTEXTS]
    ]
    return join(shown)


def stereotypes(pairs: Part) -> Iterator[Markup]:
    """All pairs, and each type of bias: the share whose more stereotyping sentence is the likelier one."""
    rows = [pairs_row("all pairs", pairs, "ink-dark")]
    by_type = pairs.get("by_bias_type")
    rows += [pairs_row(name, one, "c0") for name, one in (by_type.items() if by_type else ())]
    words = "share of pairs whose more stereotyping sentence is the likelier one; the line at 50% is no preference"
    yield strip("CrowS-Pairs", words, rows, 0.5, from_zero=False)
    if other := other_rows(pairs):
        words = "by means over tokens, over sentences of equal length, by the pair's direction, at other temperatures"
        yield strip("CrowS-Pairs, computed otherwise", words, other, 0.5, from_zero=False)
    left_out = pairs.get("left_out")
    if left_out and any(count.whole() for _, count in left_out.items()):
        counts = ", ".join(f"{count.whole():,} {name.replace('_', ' ')}" for name, count in left_out.items())
        yield sentence(f"Pairs that could not be scored: {counts}.", class_="note")


def other_rows(pairs: Part) -> list[Row]:
    names = {"per_token": "mean over tokens", "equal_length": "equal length"}
    rows = [pairs_row(name, part, "c0") for key, name in names.items() if (part := pairs.get(key))]
    directions, temperatures = pairs.get("by_direction"), pairs.get("by_temperature")
    rows += [pairs_row(name, part, "c0") for name, part in (directions.items() if directions else ())]
    for part in temperatures.list() if temperatures else ():
        rows.append(pairs_row(f"temperature {significant(part['temperature'].number())}", part, "c4"))
    return rows


def pairs_row(name: str, part: Part, css: str) -> Row:
    score = part.get("score")
    low_high = part.get("interval")
    figure = Figure(score.number() if score else None, low_high.range() if low_high else None)
    return Row(f"{name} ({part['pairs'].whole():,})", figure, percent(figure.value), css)
