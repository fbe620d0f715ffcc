"""`skald trace RUN --text FILE`: marks what of a text stands in the training text, and says where."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

from data.documents import encode_text
from data.errors import DataError
from data.whole_file import whole_file
from launch.commands.progress import ProgressReport
from launch.commands.quantities import count
from launch.commands.shading import paint
from launch.commands.trace_page import html_page
from launch.inference.checkpoint import DescribedCheckpoint
from launch.inference.tracing import Trace, TracedSpan, trace
from train.fields import ConfigError

# Pale backgrounds, of the 256 colours: from so many times the least length on, yellow to red.
COLOURS = ((4.0, 203), (3.0, 209), (2.0, 216), (1.5, 222), (1.0, 229))
NOTES = 40  # that are shown on a terminal
SHOWN_NGRAMS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


def main(arguments: Namespace) -> int:
    if arguments.html and not Path(arguments.html).absolute().parent.is_dir():
        raise ConfigError(f"--html {arguments.html}: there is no folder {Path(arguments.html).parent}")
    text, report = read_text_file(arguments.text), ProgressReport()
    run = DescribedCheckpoint(arguments.run)
    encoded = encode_text(run.tokenizer, text, arguments.text)
    if not len(encoded.tokens):
        raise DataError(f"{arguments.text}: no text in it")
    if encoded.change:
        report(f"the tokenizer does not keep the text as it is ({encoded.change})")
    traced = trace(run, encoded.tokens, arguments.least, report)
    if arguments.html:
        with whole_file(Path(arguments.html)) as file:
            file.write(html_page(traced, f"{run.name}, step {run.step}", arguments.text).encode())
        print(f"wrote {arguments.html}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"step": run.step, **traced.to_json()}, ensure_ascii=False))
    else:
        print("\n".join(page(traced, sys.stdout.isatty())))
    return 0


def read_text_file(name: str) -> str:
    """The text of a file, or of standard input for `-`. Raises DataError."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise DataError(f"{name}: can't read the text ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is no UTF-8; save the text as UTF-8") from None


def page(traced: Trace, colours: bool) -> list[str]:
    """A trace as lines for a person: the text with its spans, where they stand, and how new the text is."""
    lines = [marked_text(traced, colours), ""]
    if colours and traced.spans:
        shown = "".join(paint(f" {round(times * traced.least)} ", colour) for times, colour in reversed(COLOURS))
        lines += [f"[tokens of a span, from: {shown}]", ""]
    longest = sorted(range(len(traced.spans)), key=lambda number: -traced.spans[number].tokens)
    for number in sorted(longest[:NOTES]):
        lines += note(number + 1, traced.spans[number], colours)
    if len(traced.spans) > NOTES:
        lines.append(f"… these are the longest {NOTES} of {len(traced.spans)} spans; --json and --html have all")
    return [*lines, *([""] if traced.spans else []), *summary(traced)]


def marked_text(traced: Trace, colours: bool) -> str:
    """The text with its spans shaded by length, or between brackets; the number of its note behind each."""
    shown = []
    for segment in traced.segments:
        text, number = visible(segment.text), "" if segment.ends is None else f"[{segment.ends}]"
        if segment.length and colours:
            text = paint(text, colour(segment.length, traced.least))
        elif not colours:
            text = f"{'⟦' * segment.begins}{text}{'⟧' * bool(number)}"
        shown.append(text + number)
    return "".join(shown)


def colour(length: int, least: int) -> int:
    """The colour of a span of so many tokens, of the 256."""
    return next(colour for times, colour in COLOURS if length >= times * least)


def visible(text: str) -> str:
    """A text without what would steer a terminal: escapes for control characters, but for line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def note(number: int, span: TracedSpan, colours: bool) -> list[str]:
    """Where a span stands, in two lines: the place, and the words around it."""
    others = f", and {count(span.count - 1, 'other place')}" if span.count > 1 else ""
    place = f"token {span.offset:,} of {span.document_tokens:,}"
    before, text, after = (re.sub(r"\s+", " ", visible(part)) for part in (span.before, span.text, span.after))
    middle = f"\x1b[1m{text}\x1b[0m" if colours else f"⟦{text}⟧"
    head = f"[{number}] {count(span.tokens, 'token')}: {span.title}, {place}{others}"
    return [head, f"    …{before}{middle}{after}…"]


def summary(traced: Trace) -> list[str]:
    """How new the text is, beside human text that was held out."""
    own, human = traced.novelty, traced.human
    rows = [("n-grams that are new, n =", [str(n) for n in SHOWN_NGRAMS])]
    name = f"{count(human.texts, 'held-out human text')} of {count(traced.human_length, 'token')} (median)"
    for title, shares in ((f"this text, {count(own.tokens, 'token')}", own.new_ngrams), (name, human.new_ngrams)):
        rows.append((title, ["-" if shares[n - 1] is None else f"{shares[n - 1]:.1%}" for n in SHOWN_NGRAMS]))
    width = max(len(title) for title, _ in rows)
    lines = [f"{title:<{width}}" + "".join(f"{value:>7}" for value in values) for title, values in rows]
    median, most = int(np.median(human.longest)), max(human.longest)
    return [
        *lines,
        f"longest copied span: {count(own.longest[0], 'token')}; human text: {median} (median), {most} (most)",
        f"in spans of {traced.least} tokens and more: {traced.marked:.1%} of the tokens; "
        f"human text: {traced.human_marked:.1%}",
        *([traced.untraced] if traced.untraced else []),
    ]
