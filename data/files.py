"""The files that a path, a folder or a glob names: links followed, each file once. data/sources.py reads them."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.errors import DataError


def list_files(name: str) -> list[Path]:
    """In the order of their paths, without the empty ones; a folder means every file below it.

    Hidden parts (.git, .ipynb_checkpoints) are left out unless the name itself holds them; so are pipes and devices.
    Raises DataError where there is no file, where a link leads nowhere, and where a folder can't be read.
    """
    path = expand_home(name)
    with reading_errors(path):
        if path.is_file():
            return [path]
        top, pattern = (path, ("**",)) if path.is_dir() else split_glob(path)
        found = deduplicate(match_glob(top, pattern), top)
        if not found:
            raise DataError(f"{name}: {'the folder holds no file' if path.is_dir() else explain_missing(path)}")
        full = [file for file in found if file.stat().st_size]
    if not full:
        raise DataError(f"{name}: every file there is empty")
    return full


def expand_home(name: str) -> Path:
    """With a leading ~ as the home folder it stands for. Raises DataError where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise DataError(f"{name}: no home folder is known for {name.split('/')[0]}") from None


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """What the system refuses to read becomes a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: can't be read ({error.strerror or error})") from None


def split_glob(path: Path) -> tuple[Path, Sequence[str]]:
    """A glob's folder, and the parts that are matched below it: the last part at least."""
    first = next((i for i, part in enumerate(path.parts) if is_wildcard(part)), len(path.parts) - 1)
    return Path(*path.parts[:first]), path.parts[first:]


def is_wildcard(part: str) -> bool:
    return bool(re.search(r"[*?[]", part))


def match_glob(folder: Path, pattern: Sequence[str]) -> Iterator[Path]:
    """Files below `folder`, and links that lead nowhere, whose parts match: what glob.glob(recursive=True) finds.

    glob itself goes round in circles of links, two of which take it 2^40 ways. The same file may come twice.
    """
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        after = tuple(itertools.dropwhile("**".__eq__, rest)) or ("*",)
        for below in walk_folders(folder):
            yield from match_glob(below, after)
        return
    for name in list_names(folder, first) if is_wildcard(first) else [first]:
        path = folder / name
        if rest and path.is_dir():
            yield from match_glob(path, rest)
        elif not rest and (path.is_file() or is_broken_link(path)):
            yield path


def list_names(folder: Path, pattern: str) -> list[str]:
    """The hidden ones only where the pattern begins with a dot itself."""
    found = fnmatch.filter(sorted(os.listdir(folder)), pattern)
    return found if pattern.startswith(".") else [name for name in found if not name.startswith(".")]


def walk_folders(top: Path) -> Iterator[Path]:
    """`top` and every folder below it that is not hidden, each once: by a way without links where there is one."""
    seen: set[str] = set()
    straight, linked = [top], deque()
    while straight or linked:
        folder = straight.pop() if straight else linked.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        for path in (folder / name for name in list_names(folder, "*")):
            if path.is_dir():
                (linked if path.is_symlink() else straight).append(path)


def deduplicate(found: Iterable[Path], top: Path) -> list[Path]:
    """Each file by one of its names, in order: rather one that says by its ending how to read it, then one that is
    no link. (In content-addressed stores links have the endings, and what they lead to has none.)"""
    start, best = os.path.realpath(top), {}
    for path in sorted(set(found), key=lambda path: path.parts):
        if is_broken_link(path):
            raise DataError(
                f"{path}: a link to {os.readlink(path)}, where nothing is; put that back, or remove the link"
            )
        real = os.path.realpath(path)
        rank = not path.suffix, real != os.path.join(start, path.relative_to(top))
        if real not in best or rank < best[real][0]:
            best[real] = rank, path
    return sorted((path for _, path in best.values()), key=lambda path: path.parts)


def is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def explain_missing(path: Path) -> str:
    if path.exists():
        return "neither a file nor a folder; write what comes out of it to a file"
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, 1)
    return f"no such file, folder or match{f'; did you mean {path.parent / close[0]}?' if close else ''}"
