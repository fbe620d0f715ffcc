"""HTML elements from Python values. Text is escaped unless it is markup already, so that no file's content can run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = {"br", "circle", "col", "hr", "input", "line", "meta", "path", "polygon", "polyline", "rect"}
SVG_VOID = {"circle", "line", "path", "polygon", "polyline", "rect"}  # without children here; closed with a slash
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # not for HTML, or not for UTF-8


class Markup(str):
    """Text that is HTML already."""


def escape(text: str) -> Markup:
    """Text as HTML. Control characters and halves of surrogate pairs become U+FFFD."""
    return Markup(html.escape(UNPRINTABLE.sub("\ufffd", text)))


def join(parts: Iterable[Markup | str | None]) -> Markup:
    """Parts one after another; what is no markup is escaped, None left out."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts if part is not None))


def element(tag: str, *children: Markup | str | None, **attributes) -> Markup:
    """An element. `class_` is written class, `data_x` data-x; an attribute that is None or False is left out."""
    opening = tag + "".join(attribute(name, value) for name, value in attributes.items())
    if tag in VOID and not children:
        return Markup(f"<{opening}/>" if tag in SVG_VOID else f"<{opening}>")
    return Markup(f"<{opening}>{join(children)}</{tag}>")


def attribute(name: str, value) -> str:
    """One attribute with the space before it; a bare name for True."""
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-") if name not in ("viewBox", "preserveAspectRatio") else name
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def table(head: Iterable[Markup | str], rows: Iterable[Iterable[Markup | str | None]], **attributes) -> Markup:
    """A table in a box of its own that scrolls sideways: the first cell of each row is its heading."""
    heading = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [element("tr", *(row_cell(number, cell) for number, cell in enumerate(row))) for row in rows]
    content = element("table", element("thead", heading), element("tbody", *body), **attributes)
    return element("div", content, class_="scroll")


def row_cell(number: int, cell: Markup | str | None) -> Markup:
    if number == 0:
        return element("th", cell, scope="row")
    return element("td", cell if cell is not None else "–")
