"""What lies in a cache of stores, and what of it may go. launch/commands/cache.py lists and prunes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data.store.lock import held_lock
from data.store.place import store_name

STORE_NAMES = re.compile(r"[0-9a-f]{16}-[0-9a-f]{24}|[0-9a-f]{32}(\.unfinished-.*)?|removing-.*")  # of any version
BEING_WRITTEN = 3600.0  # seconds for which an unfinished file may still belong to a process


class StoreEntry(NamedTuple):
    """A complete store. `bytes`: on disk. `used`: when a command opened it last, in seconds since 1970."""

    folder: Path
    source: str
    tokenizer: str
    documents: int
    tokens: int
    bytes: int
    used: float


class Build(NamedTuple):
    """A store that is not complete. `running`: a process works on it."""

    folder: Path
    bytes: int
    running: bool


class Leftover(NamedTuple):
    """A store that no command of this version opens, or what a process left that was killed while it wrote."""

    path: Path
    bytes: int


def list_stores(stores: Path) -> list[StoreEntry]:
    """The stores that this version opens, those used last first."""
    entries = [store_entry(folder) for folder in subfolders(stores)]
    return sorted((entry for entry in entries if entry), key=lambda entry: -entry.used)


def store_entry(folder: Path) -> StoreEntry | None:
    """What a folder holds; None where it is no complete store of this version."""
    file = folder / "manifest.json"
    try:
        manifest, used = json.loads(file.read_text()), file.stat().st_mtime
        if folder.name != store_name(manifest["tokenizer"], manifest["source"]):
            return None
        described = (manifest[name] for name in ("source_path", "tokenizer_kind", "documents", "tokens"))
        return StoreEntry(folder, *described, folder_bytes(folder), used)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_builds(stores: Path) -> list[Build]:
    """The stores that are not complete."""
    builds = []
    for folder in subfolders(stores):
        if folder.name.startswith("building-"):
            with held_lock(lock_file(folder)) as held:
                builds.append(Build(folder, folder_bytes(folder), not held))
    return builds


def list_leftovers(stores: Path) -> list[Leftover]:
    """Stores of other versions, and what was never finished."""
    paths: list[Path] = []
    for folder in subfolders(stores):
        if STORE_NAMES.fullmatch(folder.name):
            paths += unfinished_files(folder) if store_entry(folder) else [folder]
    return [Leftover(path, folder_bytes(path)) for path in paths]


def unfinished_files(folder: Path) -> list[Path]:
    """Files of a store that nobody has written to for BEING_WRITTEN, and that do not have their name yet."""
    old = time.time() - BEING_WRITTEN
    return [file for file in sorted(folder.rglob("*.unfinished*")) if file.stat().st_mtime < old]


def remove_build(build: Build) -> bool:
    """Removes a build, unless a process works on it by now. Returns whether it is gone."""
    with held_lock(lock_file(build.folder)) as held:
        if held:
            remove(build.folder)
            lock_file(build.folder).unlink()
        return held


def remove_free_locks(stores: Path) -> None:
    """Removes the lock files of builds that are not there any more."""
    for file in stores.glob("building-*.lock"):
        if not file.with_suffix("").exists():
            with held_lock(file) as held:
                if held and not file.with_suffix("").exists():
                    file.unlink()


def remove(path: Path) -> None:
    """Removes a file, or a folder: under another name first, so that no half of it is ever taken for a store.

    What processes have mapped into memory stays readable for them until they end.
    """
    with contextlib.suppress(FileNotFoundError):  # another process removes it, too
        if not path.is_dir():
            path.unlink()
            return
        doomed = path.with_name(f"removing-{os.getpid()}-{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def lock_file(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def subfolders(stores: Path) -> Iterator[Path]:
    return (path for path in sorted(stores.glob("*")) if path.is_dir())


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed in this moment
            total += file.stat().st_size if file.is_file() else 0
    return total
