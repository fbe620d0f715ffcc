"""Builds stores: documents are read in order, encoded by several processes, and written to shards in order.

A store is built under another name, and renamed when it is complete: an unfinished one is never read. After every
shard the state is kept in the folder, so a build that was killed goes on behind its last shard. data/store/store.py
calls it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.sources.document import Document, Refusal, SourceFile
from data.sources.source import combine_fingerprint, open_source
from data.store.lock import locked
from data.store.place import Place, store_name, tokenizer_part
from data.store.progress import Progress
from data.store.segments import DocumentEnd, Event, FileEnd, Segment, document_events
from data.store.workers import encoders
from data.store.writer import StoreWriter
from data.tokenizers.tokenizer import Tokenizer, tokenizer_fingerprint

Report = Callable[[str], None]

BATCH_CHARACTERS = 1 << 18  # that a process is given at once
BATCH_EVENTS = 1 << 13
PARALLEL_BYTES = 1 << 22  # of a source that is worth starting processes for


def build_store(
    source: Source, tokenizer: Tokenizer, files: list[SourceFile], place: Place, stores: Path, report: Report
) -> Path:
    """Tokenizes a source into a store, or goes on where an earlier process stopped; returns its folder.

    Where another process builds the same store, waits for it. Raises DataError and OSError.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    folder = stores / f"building-{tokenizer_part(fingerprint)}-{place.name}"
    stores.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock"), lambda: report(f"{source.path}: another process tokenizes it; waiting")):
        if found := place.find(stores, fingerprint):  # made by the process that held the lock
            return found
        writer = StoreWriter(folder, tokenizer, place.stamps)
        total = sum(file.size for file in files)
        progress = Progress(source.path, total, writer.state["bytes_read"], report)
        with contextlib.closing(writer):
            write_events(writer, tokenizer, source, files, progress)
            if [file.stamp for file in open_source(source, ids=tokenizer.reads_ids)] != place.stamps:
                raise DataError(f"{source.path}: changed while it was read; start again once nothing writes there")
            writer.end()
            manifest = writer.finish(
                source=combine_fingerprint(source, files, writer.state["digests"]),
                tokenizer=fingerprint,
                source_path=source.path,
                sizes=[file.size for file in files],
                files=[file.name for file in files],
            )
        return publish(folder, stores / store_name(fingerprint, manifest["source"]), place)


def publish(folder: Path, final: Path, place: Place) -> Path:
    """Gives a complete store its name; where another one has it already, with the same content, that one stays."""
    place.remember(folder)
    try:
        os.rename(folder, final)
    except OSError:
        if not (final / "manifest.json").is_file():
            raise
        shutil.rmtree(folder)
        place.remember(final)
    return final


def write_events(
    writer: StoreWriter, tokenizer: Tokenizer, source: Source, files: list[SourceFile], progress: Progress
) -> None:
    """Reads, encodes and writes everything behind what the writer has already."""
    events = itertools.chain.from_iterable(
        file_events(tokenizer, file, writer.state["records"] if number == writer.state["file"] else 0)
        for number, file in enumerate(files)
        if number >= writer.state["file"]
    )
    allowed = source.max_refused
    queue: list[list[Event]] = []
    workers = min(available_cores(), 1 + sum(file.size for file in files) // PARALLEL_BYTES)
    with encoders(tokenizer, workers) as encode:
        batches = itertools.chain.from_iterable(remember(batch, queue) for batch in batched(events))
        for encoded in encode(batches):
            writer.write(queue.pop(0), encoded)
            progress.show(writer.bytes_done)
            check_refusals(source, writer.next, allowed)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def remember(batch: list[Event], queue: list[list[Event]]) -> Iterator[list[Segment]]:
    """The segments of a batch, whose other events wait in `queue` until these are encoded."""
    queue.append(batch)
    yield [event for event in batch if isinstance(event, Segment)]


def check_refusals(source: Source, state: dict, allowed: float) -> None:
    """Raises DataError once more records are refused than the source allows, as soon as that is sure enough to say."""
    refused, seen = state["refused"], state["refused"] + state["documents"]
    if refused and (not allowed or (seen > 1000 and refused > 2 * allowed * seen)):
        counted = "" if not allowed else f" ({refused} of {seen} records are refused by now, max_refused={allowed:g})"
        raise DataError(f"{state['reasons'][0]}{counted}")


def batched(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Lists of events that hold about as much text."""
    batch, size = [], 0
    for event in events:
        batch.append(event)
        size += len(event.content) if isinstance(event, Segment) else 0
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_EVENTS:
            yield batch
            batch, size = [], 0
    yield batch


def file_events(tokenizer: Tokenizer, file: SourceFile, skipped: int) -> Iterator[Event]:
    """The events of a file from record `skipped` on."""
    for number, record in enumerate(file.documents()):
        if number < skipped:
            if isinstance(record, Document):
                for _ in record.pieces:  # it is read, for the file's digest
                    pass
        elif isinstance(record, Refusal):
            yield DocumentEnd(0, record.reason)
        else:
            yield from document_events(tokenizer, record)
    yield FileEnd(file.digest(), file.size)
