"""Writes a store's shards, and keeps after each what a later process needs to go on. data/store/build.py uses it."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.store.join_arrays import join_arrays
from data.store.segments import DocumentEnd, EncodedSegments, Event, FileEnd, Segment
from data.tokenizers.tokenizer import Tokenizer
from data.whole_file import whole_file

SHARD_TOKENS = 1 << 26  # about 128 MB; a document stays in one shard, whatever its length
REASONS = 20  # of refusals that are kept word by word
COUNTS = ("file", "records", "bytes_read", "text_bytes", "tokens", "documents", "bytes", "refused")
LISTS = ("shards", "digests", "records_by_file", "reasons")
COLUMNS = {  # -> type
    "offsets": "q", "sizes": "q", "hashes": "Q", "pieces": "q", "counted": "b", "halves": "q", "refused": "q",
}  # fmt: skip


class StoreWriter:
    """A folder in which a store is built. `state` is what was written up to the last whole shard, and how far that is.

    `identity` is a JSON value of what the store is made of: a folder that was begun with another one is begun anew.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, identity: list):
        self.folder, self.tokenizer = folder, tokenizer
        self.dtype = np.dtype("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32")
        self.prefix = np.array([] if tokenizer.start_id is None else [tokenizer.start_id], self.dtype)
        self.suffix = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], self.dtype)
        self.state = self.begin([*identity, *COLUMNS])
        self.open_shard()

    def begin(self, identity: list) -> dict:
        """The state that an earlier process left here, or that of a new store."""
        file = self.folder / "state.json"
        try:
            state = json.loads(file.read_text())
            if state["identity"] == identity:
                return state
        except (OSError, ValueError, KeyError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return {
            "identity": identity,
            **dict.fromkeys(COUNTS, 0),
            **{name: [] for name in LISTS},
            "change": None,
        }

    def open_shard(self) -> None:
        number = len(self.state["shards"])
        self.file = (self.folder / f"tokens-{number:05}.bin").open("wb")
        self.columns = {name: array(code) for name, code in COLUMNS.items()}
        self.next = {**self.state, **{k: list(self.state[k]) for k in LISTS}}
        self.shard_tokens = 0  # of whole documents in this shard
        self.begin_document()

    def begin_document(self) -> None:
        self.written, self.size, self.pieces, self.half, self.error = 0, 0, [], None, None
        self.begin_half()

    def begin_half(self) -> None:
        self.begun = self.closed = False  # whether it has tokens yet, and whether the last of them is an end token

    def write(self, events: list[Event], encoded: EncodedSegments) -> None:
        """Writes a batch of events, whose segments are encoded. A shard ends with a document."""
        stops = np.cumsum(encoded.lengths)
        tokens = encoded.tokens.astype(self.dtype, copy=False)
        self.next["change"] = self.next["change"] or encoded.change
        number = 0
        for event in events:
            if isinstance(event, Segment):
                self.error = self.error or encoded.errors.get(number)
                ids = tokens[stops[number] - encoded.lengths[number] : stops[number]]
                size = int(encoded.bytes[number])
                begins_text = not self.begun or event.begins_half
                if begins_text and not len(self.missing_prefix(ids)) and event.counted:
                    size = max(0, size - int(encoded.first_bytes[number]))
                self.write_segment(event, ids, size)
                number += 1
            elif isinstance(event, FileEnd):
                self.next["digests"].append(event.digest)
                self.next["records_by_file"].append(self.next["records"])
                self.next["file"] += 1
                self.next["records"] = 0
                self.next["bytes_read"] += event.size
                self.next["text_bytes"] = 0
            else:
                self.end_document(event)

    def write_segment(self, segment: Segment, ids: np.ndarray, size: int) -> None:
        if self.error:
            return
        if segment.begins_half:
            self.end_half()
            self.half = self.written
        start = self.written
        if len(ids):
            is_start = not self.begun and np.array_equal(ids, self.prefix)  # and no end, where one token is both
            self.append(self.prefix[:0] if self.begun else self.missing_prefix(ids))
            if not is_space(segment):  # which a template may write behind the end token
                self.closed = np.array_equal(ids[-1:], self.suffix) and not is_start
            self.begun = True
        if not self.pieces or segment.begins_piece:
            begins_half = not self.pieces or segment.begins_half
            self.pieces.append((start if begins_half else self.written, segment.counted))
        self.append(ids)
        self.next["text_bytes"] += size
        self.size += size if segment.counted else 0

    def missing_prefix(self, ids: np.ndarray) -> np.ndarray:
        """The start token, unless the ids begin with it: a template may write it out."""
        return self.prefix[:0] if np.array_equal(ids[:1], self.prefix) else self.prefix

    def end_half(self) -> None:
        """Ends a document, or the first half of a pair, with an end token, unless its text ends with it."""
        if not self.begun:
            self.append(self.prefix)
        if not self.closed:
            self.append(self.suffix)
        self.begin_half()

    def append(self, ids: np.ndarray) -> None:
        self.file.write(ids.tobytes())
        self.written += len(ids)

    def end_document(self, end: DocumentEnd) -> None:
        """Notes a document that is complete; one that was refused is taken back."""
        self.next["records"] += 1
        if reason := end.reason or self.error:
            self.columns["refused"].append(self.next["documents"])
            self.next["refused"] += 1
            self.next["reasons"] = [*self.next["reasons"], reason][:REASONS]
            self.file.seek(self.shard_tokens * self.dtype.itemsize)
            self.file.truncate()
        else:
            self.end_half()
            self.add_document(end.key)
        self.begin_document()
        if self.shard_tokens >= SHARD_TOKENS:
            self.commit()

    def add_document(self, key: int) -> None:
        start = self.state["tokens"] + self.shard_tokens
        self.shard_tokens += self.written
        self.columns["offsets"].append(start + self.written)
        self.columns["sizes"].append(self.size)
        self.columns["hashes"].append(key)
        if self.half is not None:
            self.columns["halves"].append(start + self.half)
        for place, counted in self.pieces or [(0, True)]:
            self.columns["pieces"].append(start + place)
            self.columns["counted"].append(counted)
        self.next["documents"] += 1
        self.next["bytes"] += self.size

    def commit(self) -> None:
        """Ends the shard: from here on it stays, whatever happens to this process."""
        name = os.path.basename(self.file.name)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        for column, values in self.columns.items():
            with (self.folder / f"{column}-{len(self.state['shards']):05}.part").open("wb") as file:
                values.tofile(file)
                file.flush()
                os.fsync(file.fileno())
        self.next["shards"].append({"file": name, "tokens": self.shard_tokens})
        self.next["tokens"] += self.shard_tokens
        self.state = self.next
        write_json(self.folder / "state.json", self.state)
        self.open_shard()

    def end(self) -> None:
        """Ends the last shard: `state` is that of everything."""
        if self.shard_tokens or not self.state["shards"] or self.next != self.state:
            self.commit()
        self.file.close()
        Path(self.file.name).unlink()

    def finish(self, **described) -> dict:
        """Writes the manifest, into which `described` goes, and returns it. Raises DataError without a token."""
        file = self.folder / "manifest.json"
        if not file.is_file():  # else another process came as far as this
            write_json(file, self.make_manifest(described))
        for part in self.folder.glob("*.part"):  # only now: until the manifest is there, they are joined anew
            part.unlink()
        (self.folder / "state.json").unlink()
        return json.loads(file.read_text())

    def make_manifest(self, described: dict) -> dict:
        """The manifest of a store whose columns are joined."""
        state = self.state
        if not state["tokens"]:
            raise DataError(f"{described['source_path']}: {explain_emptiness(state)}")
        return {
            **described,
            "dtype": self.dtype.name,
            "ended": len(self.suffix) > 0,
            "counted": self.join_columns(omitted=() if state["refused"] else ("refused",)),
            **{name: state[name] for name in ("documents", "tokens", "bytes", "change", "shards", "digests")},
            "records_by_file": state["records_by_file"],
            "refused": {"documents": state["refused"], "reasons": state["reasons"]},
        }

    def join_columns(self, omitted: tuple[str, ...]) -> bool:
        """Joins each column's parts to one array of the store. Returns whether every token counts."""
        parts = range(len(self.state["shards"]))
        files = {name: [self.folder / f"{name}-{part:05}.part" for part in parts] for name in COLUMNS}
        every = all((np.fromfile(file, np.int8) == 1).all() for file in files["counted"])
        omitted += ("pieces", "counted") if every else ()
        omitted += () if any(file.stat().st_size for file in files["halves"]) else ("halves",)
        for name, code in COLUMNS.items():
            if name not in omitted:
                join_arrays(self.folder / f"{name}.npy", files[name], np.dtype(code), leading=name == "offsets")
        return every

    @property
    def bytes_done(self) -> int:
        """Bytes of the source that were read and written, about."""
        return self.next["bytes_read"] + self.next["text_bytes"]

    def close(self) -> None:
        self.file.close()


def is_space(segment: Segment) -> bool:
    return isinstance(segment.content, str) and segment.content.isspace()


def explain_emptiness(state: dict) -> str:
    if state["refused"]:
        return f"none of its {state['refused']} records can be read (the first: {state['reasons'][0]})"
    return "no text in it that the tokenizer makes a token of"


def write_json(file: Path, value) -> None:
    with whole_file(file) as opened:
        opened.write(json.dumps(value).encode())
