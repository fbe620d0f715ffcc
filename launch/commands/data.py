"""`skald data CONFIG --step N`: the rows of a step's batch, decoded, and the documents that they come from."""

from __future__ import annotations

import hashlib
import itertools
import json
from argparse import Namespace
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from data.config import Data
from data.pipeline import Pipeline, TrainingSource
from data.sources.source import open_source
from launch.commands.prepare import open_data
from launch.commands.progress import ProgressReport


class RowPart(NamedTuple):
    """A part of a row that one piece of a document fills: a row has a part for each, in order.

    `segment` counts the spans of documents in the row, from 1. `document` is the number in the store of its source,
    `record` that in the file, both from 0; the part is tokens `start` to `stop` of the document. `weight` is 0 where
    these tokens do not count when they are predicted, as in prompts. What remains of a row is a part of segment 0,
    without a document.
    """

    source: str
    segment: int
    document: int | None
    file: str | None
    record: int | None
    start: int | None
    stop: int | None
    tokens: int
    weight: float
    text: str


def main(arguments: Namespace) -> int:
    experiment, step = arguments.experiment, arguments.step
    pipeline = open_data(experiment, ProgressReport())
    hosts = split_evenly(experiment.batch_size, arguments.hosts)
    digest = digest_of(pipeline, step, hosts)
    shown = min(arguments.rows or experiment.batch_size, experiment.batch_size)
    rows = decode_rows(pipeline, experiment.data, step, shown)
    epochs = pipeline.epochs(step)
    if arguments.json:
        parts = [[part._asdict() for part in row] for row in rows]
        print(json.dumps({"step": step, "rows": parts, "hosts": hosts, "sha256": digest, "epochs": epochs}))
        return 0
    console = Console(highlight=False)
    console.print(heading(step, experiment.batch_size, experiment.data, epochs, digest), soft_wrap=True)
    for number, row in enumerate(rows):
        print_row(console, number, row, hosts, arguments.full)
    return 0


def split_evenly(rows: int, hosts: int) -> list[tuple[int, int]]:
    """The rows start .. stop that each of several readers takes: as many as the others, or one more."""
    return [(host * rows // hosts, (host + 1) * rows // hosts) for host in range(hosts)]


def digest_of(pipeline: Pipeline, step: int, hosts: list[tuple[int, int]]) -> str:
    """sha256 of the batch's tokens as little-endian int32, in row order; each reader's rows are read by themselves."""
    sha256 = hashlib.sha256()
    for start, stop in hosts:
        sha256.update(pipeline.rows(step, start, stop).tokens.astype("<i4").tobytes())
    return sha256.hexdigest()


def decode_rows(pipeline: Pipeline, config: Data, step: int, count: int) -> list[list[RowPart]]:
    """The parts of the first `count` rows of a step's batch."""
    rows: list[list[RowPart]] = [[] for _ in range(count)]
    sources = {source.name: part.source for part, source in zip(config.parts, pipeline.sources, strict=True)}
    for source, places, spans in pipeline.spans(step, 0, count):
        files = [file.name for file in open_source(sources[source.name], pipeline.tokenizer.reads_ids)]
        for row, start, stop in zip(places[spans.rows].tolist(), *map(np.ndarray.tolist, spans[1:]), strict=True):
            segment = 1 + (rows[row][-1].segment if rows[row] else 0)
            rows[row] += document_parts(source, files, pipeline, segment, start, stop)
        for row in places.tolist():
            if padding := config.length - sum(part.tokens for part in rows[row]):
                rows[row].append(RowPart(source.name, 0, None, None, None, None, None, padding, 0.0, ""))
    return rows


def document_parts(
    source: TrainingSource, files: list[str], pipeline: Pipeline, segment: int, start: int, stop: int
) -> Iterator[RowPart]:
    """The parts of a span of one document, tokens start .. stop of its store."""
    documents = source.documents
    number = int(np.searchsorted(documents.offsets, start, side="right")) - 1
    origin, first = source.store.origin(number), int(documents.offsets[number])
    counted = documents.counts(np.arange(start, stop))
    borders = [0, *(np.flatnonzero(counted[1:] != counted[:-1]) + 1).tolist(), stop - start]
    for begin, end in itertools.pairwise(borders):
        text = pipeline.tokenizer.decode(documents.tokens[start + begin : start + end].tolist())
        place = (start + begin - first, start + end - first)
        where = (number, files[origin.file], origin.record)
        yield RowPart(source.name, segment, *where, *place, end - begin, float(counted[begin]), text)


def heading(step: int, batch_size: int, config: Data, epochs: dict[str, float], digest: str) -> Text:
    read = ", ".join(f"{name} {times:.3g}" for name, times in epochs.items())
    return Text(
        f"step {step}: {batch_size} rows of {config.length} tokens, packing={config.packing}\n"
        f"epochs before it: {read}\nsha256 {digest}"
    )


def print_row(console: Console, number: int, row: list[RowPart], hosts: list[tuple[int, int]], full: bool) -> None:
    """Prints a row: for each part where it comes from, and its text on a line of its own. What has no weight is dim."""
    host = next(host for host, (start, stop) in enumerate(hosts) if start <= number < stop)
    reader = f", host {host}" if len(hosts) > 1 else ""
    console.print(Text(f"\nrow {number}: {row[0].source}{reader}", style="bold"), soft_wrap=True)
    for part in row:
        style = "" if part.weight else "dim"
        console.print(Text(f"  {describe(part)}", style=style), soft_wrap=True)
        if part.document is not None:
            text = Text(f"    {printable(part.text)}", style=style)
            if not full:
                text.truncate(console.width, overflow="ellipsis")
            console.print(text, soft_wrap=True)


def describe(part: RowPart) -> str:
    if part.document is None:
        return f"[padding: {part.tokens} places]"
    weight = "" if part.weight else "[no weight] "
    document = f"document {part.document}, tokens {part.start} to {part.stop}"
    return f"{part.segment}  {weight}{document}; record {part.record} of {part.file}"


def printable(text: str) -> str:
    """The text on one line, with escapes for line ends and control characters."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
