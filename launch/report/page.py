"""The page: its sections in order, style and script, as one file of HTML. launch/commands/report.py writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch import VERSION
from launch.report.html import Markup, element
from launch.report.run_files import RunFiles
from launch.report.sections.cost import cost
from launch.report.sections.curves import curves
from launch.report.sections.frontier import frontier
from launch.report.sections.gate import gate
from launch.report.sections.head import head
from launch.report.sections.novelty import novelty
from launch.report.sections.risk import risk
from launch.report.sections.samples import samples
from launch.report.sections.scores import scores
from launch.report.sections.settings import settings

SECTIONS = (curves, samples, frontier, novelty, risk, gate, scores, cost, settings)
HERE = Path(__file__).parent


def page(runs: Sequence[RunFiles]) -> str:
    """The HTML of runs. Raises DataError where a file of theirs is wrong."""
    sections = [section(runs) for section in SECTIONS]
    links = [element("a", section.title, href=f"#{section.name}") for section in sections]
    body = element(
        "body",
        head(runs),
        element("nav", *links, aria_label="Sections"),
        element("main", *(section.markup() for section in sections)),
        element("footer", f"Made by skald report, Skald {VERSION}."),
        element("script", Markup((HERE / "script.js").read_text(encoding="utf-8"))),
    )
    title = f"{', '.join(run.name for run in runs)} – Skald"
    html_head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup((HERE / "style.css").read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{element('html', html_head, body, lang='en')}\n"
