"""Builds stores: documents are read in order, encoded by several processes, and written to shards in order.

A store is built under another name, and renamed when it is complete: an unfinished one is never read. After every
shard the state is kept in the folder, so a build that was killed goes on behind its last shard. data/store/store.py
calls it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.sources.document import Refusal, SourceFile
from data.sources.source import FIELD_REMEDY, add_remedies, combine_fingerprint, open_source
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
    source: Source,
    tokenizer: Tokenizer,
    files: list[SourceFile],
    place: Place,
    stores: Path,
    report: Report,
    field_remedy: str = FIELD_REMEDY,
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
        progress = Progress(source.path, total, writer.bytes_done, report)
        with contextlib.closing(writer):
            events = source_events(writer.state, tokenizer, source, files, field_remedy)
            write_events(writer, tokenizer, source, events, workers_for(total), progress)
            if [file.stamp for file in open_source(source, ids=tokenizer.reads_ids)] != place.stamps:
                raise DataError(f"{source.path}: changed while it was read; start again once nothing writes there")
            writer.end()
            manifest = writer.finish(
                source=combine_fingerprint(source, zip(files, writer.state["digests"], strict=True)),
                tokenizer=fingerprint,
                tokenizer_kind=tokenizer.to_json()["kind"],
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
    writer: StoreWriter, tokenizer: Tokenizer, source: Source, events: Iterable[Event], workers: int, progress: Progress
) -> None:
    """Encodes and writes events in order."""
    queue: list[list[Event]] = []  # the batches whose segments are being encoded
    with encoders(tokenizer, workers) as encode:
        for encoded in encode(segments_of(batched(events), queue)):
            writer.write(queue.pop(0), encoded)
            progress.show(writer.bytes_done)
            check_refusals(source, writer.next)


def segments_of(batches: Iterable[list[Event]], queue: list[list[Event]]) -> Iterator[list[Segment]]:
    """The segments of each batch, whose events are put into `queue`."""
    for batch in batches:
        queue.append(batch)
        yield [event for event in batch if isinstance(event, Segment)]


def workers_for(size: int) -> int:
    """Processes for so many bytes of text: a small text is done before they have started."""
    return min(available_cores(), 1 + size // PARALLEL_BYTES)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_refusals(source: Source, state: dict) -> None:
    """Raises DataError once more records are refused than the source allows, as soon as that is sure enough to say."""
    refused, seen, allowed = state["refused"], state["refused"] + state["documents"], source.max_refused
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


def source_events(
    state: dict, tokenizer: Tokenizer, source: Source, files: list[SourceFile], field_remedy: str
) -> Iterator[Event]:
    """The events of everything in a source that `state` does not have yet."""
    for number, file in enumerate(files[state["file"] :], state["file"]):
        skipped = state["records"] if number == state["file"] else 0
        with add_remedies(source, file, files, field_remedy):
            yield from file_events(tokenizer, file, skipped, source.max_refused > 0)


def file_events(tokenizer: Tokenizer, file: SourceFile, skipped: int, may_refuse: bool) -> Iterator[Event]:
    """The events of a file from record `skipped` on. Raises a record's error unless records may be refused."""
    for number, record in enumerate(file.documents()):
        if isinstance(record, Refusal):
            if not may_refuse:
                raise record.error(record.reason)
            if number >= skipped:
                yield DocumentEnd(0, record.reason)
        elif number >= skipped:
            yield from document_events(tokenizer, record)
        else:
            collections.deque(record.pieces, 0)  # reads it all, for the file's digest
    yield FileEnd(file.digest(), file.size)
