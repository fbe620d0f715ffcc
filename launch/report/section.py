"""A section of the page: a heading with a place to link to, and what is in it, or what would fill it."""

from __future__ import annotations

from typing import NamedTuple

from launch.report.html import Markup, element, join

COLOURS = 6  # of runs; the seventh has the first's again


class Section(NamedTuple):
    """`name`: where links go. `missing`: in one line what would fill it, where it is empty."""

    name: str
    title: str
    parts: tuple[Markup | None, ...]
    missing: Markup | None = None

    def markup(self) -> Markup:
        content = self.parts if any(self.parts) else (element("p", self.missing, class_="missing"),)
        heading = element("h2", self.title, id=f"{self.name}-title")
        return element("section", heading, *content, id=self.name, aria_labelledby=f"{self.name}-title")


def colour(number: int) -> str:
    """The class of a run's colour."""
    return f"c{number % COLOURS}"


def run_heading(name: str, number: int, runs: int) -> Markup | None:
    """The name of a run above its part of a section, where there are several."""
    if runs == 1:
        return None
    return element("h3", element("i", class_=f"swatch {colour(number)}"), name)


def sentence(*parts: Markup | str | None, **attributes) -> Markup:
    return element("p", join(parts), **attributes)


def code(text: str) -> Markup:
    return element("code", text)
