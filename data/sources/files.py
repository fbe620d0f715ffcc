"""Lists the files that a path, a folder or a glob names: links are followed, each file comes once.

data/sources/source.py reads them.
"""

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
    """The files that a name stands for, in the order of their paths, without empty ones; of a folder every file below.

    Hidden files and folders (.git, .ipynb_checkpoints) are left out unless the name itself holds them; so are pipes and
    devices. Raises DataError where there is no file, where a link leads nowhere, and where a folder can't
    be read.
    """
    path = expand_home(name)
    with translate_os_errors(path):
        if path.is_file():
            return [path]
        folder, pattern = (path, ("**",)) if path.is_dir() else split_glob(path)
        paths = deduplicate(match_glob(folder, pattern), folder)
        if not paths:
            raise DataError(f"{name}: {'the folder holds no file' if path.is_dir() else explain_missing(path)}")
        nonempty = [file for file in paths if file.stat().st_size]
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


def match_glob(folder: Path, pattern: Sequence[str]) -> Iterator[Path]:
    """Files below `folder` that match the pattern, and broken links: what glob.glob(recursive=True) finds.

    glob itself follows circles of links: with two links it walks 2^40 paths. The same file may come twice.
    """
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        remaining = tuple(itertools.dropwhile("**".__eq__, rest)) or ("*",)
        for subfolder in walk_folders(folder):
            yield from match_glob(subfolder, remaining)
        return
    for name in list_names(folder, first) if is_wildcard(first) else [first]:
        path = folder / name
        if rest and path.is_dir():
            yield from match_glob(path, rest)
        elif not rest and (path.is_file() or is_broken_link(path)):
            yield path


def list_names(folder: Path, pattern: str) -> list[str]:
    """Names in a folder that match, sorted; hidden ones only where the pattern itself begins with a dot."""
    names = fnmatch.filter(sorted(os.listdir(folder)), pattern)
    return names if pattern.startswith(".") else [name for name in names if not name.startswith(".")]


def walk_folders(top: Path) -> Iterator[Path]:
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
        for path in (folder / name for name in list_names(folder, "*")):
            if path.is_dir():
                (linked if path.is_symlink() else plain).append(path)


def deduplicate(paths: Iterable[Path], top: Path) -> list[Path]:
    """Keeps one path for each file, in order: by preference one with an extension, then one that is no link.

    (In content-addressed stores the links have the extensions, and the files that they lead to have none.)
    """
    real_top, best = os.path.realpath(top), {}
    for path in sorted(set(paths), key=lambda path: path.parts):
        if is_broken_link(path):
            raise DataError(
                f"{path}: a link to {os.readlink(path)}, where nothing is; put that back, or remove the link"
            )
        real = os.path.realpath(path)
        rank = not path.suffix, real != os.path.join(real_top, path.relative_to(top))
        if real not in best or rank < best[real][0]:
            best[real] = rank, path
    return sorted((path for _, path in best.values()), key=lambda path: path.parts)


def is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def explain_missing(path: Path) -> str:
    if path.exists():
        return "neither a file nor a folder; write what comes out of it to a file"
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    similar = difflib.get_close_matches(path.name, siblings, 1)
    return f"no such file, folder or match{f'; did you mean {path.parent / similar[0]}?' if similar else ''}"
