"""Lists the files that a path, a folder or a glob names: links are followed, each file comes once.

data/sources/source.py reads them.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError

Entry = os.DirEntry | Path


class FoundFile(NamedTuple):
    """A file and what the system says of it: its size, its time of change."""

    name: str
    status: os.stat_result


def list_files(name: str) -> list[FoundFile]:
    """The files that a name stands for, in the order of their paths, without empty ones; of a folder every file below.

    Hidden files and folders (.git, .ipynb_checkpoints) are left out unless the name itself holds them; so are pipes and
    devices. The system is asked about each file once: over a network that takes a millisecond. Raises DataError where
    there is no file, where a link leads nowhere, and where a folder can't be read.
    """
    path = expand_home(name)
    with translate_os_errors(path):
        if path.is_file():
            return [FoundFile(str(path), path.stat())]
        folder, pattern = (path, ("**",)) if path.is_dir() else split_glob(path)
        names = deduplicate(match_glob(str(folder), pattern), str(folder))
        if not names:
            raise DataError(f"{name}: {'the folder holds no file' if path.is_dir() else explain_missing(path)}")
        files = [FoundFile(found, os.stat(found)) for found in names]
    nonempty = [file for file in files if file.status.st_size]
    if not nonempty:
        raise DataError(f"{name}: every file there is empty")
    return nonempty


def expand_home(name: str) -> Path:
    """The path with a leading ~ replaced by the home folder. Raises DataError where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise DataError(f"{name}: no home folder is known for {name.split('/')[0]}") from None


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns an OSError, raised where a file can't be read, into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: can't be read ({error.strerror or error})") from None


def split_glob(path: Path) -> tuple[Path, Sequence[str]]:
    """The folder of a glob, and the parts of the pattern that are matched below it: at least the last part."""
    first = next((i for i, part in enumerate(path.parts) if is_wildcard(part)), len(path.parts) - 1)
    return Path(*path.parts[:first]), path.parts[first:]


def is_wildcard(part: str) -> bool:
    return bool(re.search(r"[*?[]", part))


def match_glob(folder: str, pattern: Sequence[str]) -> Iterator[Entry]:
    """Files below `folder` that match the pattern, and broken links: what glob.glob(recursive=True) finds.

    glob itself follows circles of links: with two links it walks 2^40 paths. The same file may come twice.
    """
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        remaining = tuple(itertools.dropwhile("**".__eq__, rest)) or ("*",)
        for subfolder in walk_folders(folder):
            yield from match_glob(subfolder, remaining)
        return
    for entry in list_entries(folder, first) if is_wildcard(first) else [Path(folder, first)]:
        if rest and is_folder(entry):
            yield from match_glob(os.fspath(entry), rest)
        elif not rest and (is_file(entry) or is_broken_link(entry)):
            yield entry


def list_entries(folder: str, pattern: str) -> list[os.DirEntry]:
    """Entries of a folder whose names match, sorted; hidden ones only where the pattern itself begins with a dot."""
    with os.scandir(folder) as entries:  # says which are folders and which are links without a look at each
        found = [entry for entry in entries if pattern.startswith(".") or not entry.name.startswith(".")]
    names = set(fnmatch.filter((entry.name for entry in found), pattern))
    return sorted((entry for entry in found if entry.name in names), key=lambda entry: entry.name)


def walk_folders(top: str) -> Iterator[str]:
    """`top` and every folder below it that is not hidden, each once: by a path without links where there is one."""
    seen: set[str] = set()
    plain, linked = [top], deque()
    while plain or linked:
        folder = plain.pop() if plain else linked.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        for entry in list_entries(folder, "*"):
            if is_folder(entry):
                (linked if entry.is_symlink() else plain).append(entry.path)


# An entry of a folder says what a link leads to, too, but raises an error for one that leads to itself.


def is_file(entry: Entry) -> bool:
    return os.path.isfile(entry) if entry.is_symlink() else entry.is_file()


def is_folder(entry: Entry) -> bool:
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def is_broken_link(entry: Entry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry)


def deduplicate(entries: Iterable[Entry], top: str) -> list[str]:
    """Keeps one path for each file, in order: by preference one with an extension, then one that is no link.

    (In content-addressed stores the links have the extensions, and the files that they lead to have none.)
    """
    real_folder, best = functools.cache(os.path.realpath), {}
    below_top = "" if top == "." else os.path.join(top, "")
    by_path = {os.fspath(entry).removeprefix(f".{os.sep}"): entry for entry in entries}
    for path in sorted(by_path, key=path_parts):
        if is_broken_link(by_path[path]):
            raise DataError(
                f"{path}: a link to {os.readlink(path)}, where nothing is; put that back, or remove the link"
            )
        folder, name = os.path.split(path)
        is_link = by_path[path].is_symlink()
        real = os.path.realpath(path) if is_link else os.path.join(real_folder(folder), name)
        rank = not os.path.splitext(name)[1], real != os.path.join(real_folder(top), path.removeprefix(below_top))
        if real not in best or rank < best[real][0]:
            best[real] = rank, path
    return sorted((path for _, path in best.values()), key=path_parts)


def path_parts(path: str) -> list[str]:
    return path.split(os.sep)


def explain_missing(path: Path) -> str:
    if path.exists():
        return "neither a file nor a folder; write what comes out of it to a file"
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    similar = difflib.get_close_matches(path.name, siblings, 1)
    return f"no such file, folder or match{f'; did you mean {path.parent / similar[0]}?' if similar else ''}"
