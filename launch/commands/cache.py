"""`skald cache`: lists tokenized stores, unfinished builds and compiled programs with their sizes; `--prune`."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from data.store import cache
from data.store.cache import Build, Leftover, StoreEntry
from data.store.place import stores_folder
from launch.commands.quantities import count, format_age, format_size
from launch.machine.detection import cache_folder, compiled_folder
from train.fields import ConfigError

DAY = 86400.0  # seconds


class Contents(NamedTuple):
    """What lies in the cache. `programs` and `program_bytes`: compiled programs, and all their bytes."""

    stores: list[StoreEntry]
    builds: list[Build]
    leftovers: list[Leftover]
    programs: int
    program_bytes: int

    @property
    def bytes(self) -> int:
        return self.program_bytes + sum(entry.bytes for entry in (*self.stores, *self.builds, *self.leftovers))


class Removed(NamedTuple):
    """Something that was removed, and what it was."""

    path: Path
    bytes: int
    what: str


def main(arguments: Namespace) -> int:
    if arguments.older_than is not None and not arguments.prune:
        raise ConfigError("--older-than says which stores --prune removes; give both")
    contents = read_contents()
    removed = prune(contents, arguments.older_than) if arguments.prune else []
    if removed:
        contents = read_contents()
    if arguments.json:
        print(json.dumps(as_json(contents, removed)))
    else:
        print("\n".join(removal_page(removed) if arguments.prune else page(contents)))
    return 0


def read_contents() -> Contents:
    stores, compiled = stores_folder(cache_folder()), compiled_folder()
    programs = sum(file.is_file() for file in compiled.glob("*"))
    listed = (cache.list_stores(stores), cache.list_builds(stores), cache.list_leftovers(stores))
    return Contents(*listed, programs, cache.folder_bytes(compiled))


def prune(contents: Contents, days: float | None) -> list[Removed]:
    """Removes builds that no process works on, leftovers, and stores that were not used for so many days."""
    removed = [
        Removed(build.folder, build.bytes, "unfinished, no process works on it")
        for build in contents.builds
        if not build.running and cache.remove_build(build)
    ]
    cache.remove_free_locks(stores_folder(cache_folder()))
    old = [entry for entry in contents.stores if days is not None and time.time() - entry.used >= days * DAY]
    for path, size, what in (
        *((entry.path, entry.bytes, "of another version, or never finished") for entry in contents.leftovers),
        *((entry.folder, entry.bytes, f"{entry.source}, used {age(entry.used)}") for entry in old),
    ):
        cache.remove(path)
        removed.append(Removed(path, size, what))
    return removed


def age(used: float) -> str:
    return format_age(time.time() - used)


def page(contents: Contents) -> list[str]:
    """The cache as lines for a person."""
    lines = []
    if contents.stores:
        lines = [f"{'tokens':>15}  {'on disk':>9}  {'last used':<14}  {'tokenizer':<13}  source"]
        lines += [
            f"{entry.tokens:>15,}  {format_size(entry.bytes):>9}  {age(entry.used):<14}  {entry.tokenizer:<13}  "
            f"{entry.source}"
            for entry in contents.stores
        ]
    for build in contents.builds:
        state = "a process works on it" if build.running else "no process works on it"
        lines.append(f"unfinished: {format_size(build.bytes)} in {build.folder.name} ({state})")
    if contents.leftovers:
        size = format_size(sum(leftover.bytes for leftover in contents.leftovers))
        lines.append(f"of other versions, or never finished: {size}, {count(len(contents.leftovers), 'path')}")
    if contents.programs:
        size = format_size(contents.program_bytes)
        lines.append(f"compiled programs: {size}, {count(contents.programs, 'file')} in {compiled_folder()}")
    lines.append(f"in all: {format_size(contents.bytes)} in {cache_folder()}")
    if contents.leftovers or any(not build.running for build in contents.builds):
        lines.append("--prune removes what is unfinished and what is of other versions")
    return lines


def removal_page(removed: list[Removed]) -> list[str]:
    """What was removed, as lines for a person."""
    if not removed:
        return ["nothing to remove; --prune --older-than DAYS removes stores that were not used for so long"]
    lines = [f"removed {entry.path.name}: {format_size(entry.bytes)} ({entry.what})" for entry in removed]
    return [*lines, f"removed in all: {format_size(sum(entry.bytes for entry in removed))}"]


def as_json(contents: Contents, removed: list[Removed]) -> dict:
    """Sizes in bytes, `used` in seconds since 1970."""
    return {
        "folder": str(cache_folder()),
        "stores": [entry._asdict() | {"folder": str(entry.folder)} for entry in contents.stores],
        "unfinished": [build._asdict() | {"folder": str(build.folder)} for build in contents.builds],
        "leftovers": [leftover._asdict() | {"path": str(leftover.path)} for leftover in contents.leftovers],
        "compiled": {"folder": str(compiled_folder()), "files": contents.programs, "bytes": contents.program_bytes},
        "bytes": contents.bytes,
        "removed": [entry._asdict() | {"path": str(entry.path)} for entry in removed],
    }
