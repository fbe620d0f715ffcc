"""Files of a remote place as files of a source: gs://, s3:// and whatever else fsspec opens by a URL.

data/sources/source.py lists them. Retries are the libraries' own.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from data.errors import DataError
from data.sources.ending import detect_ending
from data.sources.files import is_wildcard
from data.sources.records import Fields
from data.sources.stream_file import StreamFile

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BLOCK_BYTES = 8 << 20  # asked for at once: on the way to another continent a request alone takes 0.2 s
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # of pip install, by the kind of URL
STAMPS = ("ETag", "etag", "generation", "LastModified", "Last-Modified", "updated", "mtime", "modified", "created")


class RemoteFile(StreamFile):
    """A file that a URL names (SourceFile)."""

    __slots__ = ()

    def __init__(self, url: str, info: dict[str, Any], fields: Fields):
        changed = next((str(info[key]) for key in STAMPS if info.get(key) is not None), None)
        super().__init__(url, detect_ending(url), info["size"] or 0, [info["size"], changed], fields)

    def open(self) -> BinaryIO:
        with self.errors():
            filesystem, path = open_filesystem(self.name)
            return filesystem.open(path, "rb", block_size=BLOCK_BYTES)

    def errors(self) -> AbstractContextManager:
        return translate_remote_errors(self.name)


def is_url(path: str) -> bool:
    return "://" in path


def list_remote_files(url: str, fields: Fields) -> list[RemoteFile]:
    """The files that a URL of a file, a folder or a glob names, in the order of their paths, without empty ones.

    Hidden files and folders are left out as local ones are. Raises DataError where there is no file, where the place
    can't be reached, and where the library for it is missing.
    """
    with translate_remote_errors(url):
        filesystem, path = open_filesystem(url)
        filesystem.invalidate_cache()  # else what was listed before would be listed again
        files = {info["name"]: info for info in find(filesystem, path)}
    if not files:
        raise DataError(f"{url}: no such file, folder or match")
    names = sorted((name for name in files if files[name]["size"] != 0), key=lambda name: name.split("/"))
    if not names:
        raise DataError(f"{url}: every file there is empty")
    return [RemoteFile(filesystem.unstrip_protocol(name), files[name], fields) for name in names]


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for a URL, and the path in it. Raises DataError where fsspec has none."""
    from fsspec.core import url_to_fs  # 0.1 s, and only remote files need it

    kind = url.partition("://")[0]
    try:
        return url_to_fs(url)
    except ValueError:
        raise DataError(f"{url}: unknown kind of source; fsspec knows no {kind}://") from None
    except ImportError as error:
        remedy = f"pip install 'skald[{EXTRAS[kind]}]'" if kind in EXTRAS else str(error)
        raise DataError(f"{url}: the library that reads {kind}:// is not installed; {remedy}") from None


def find(filesystem: AbstractFileSystem, path: str) -> Iterable[dict[str, Any]]:
    """What fsspec knows of each file that a path names: of the file itself, those below a folder, or a glob's."""
    parts = path.rstrip("/").split("/")
    first = next((i for i, part in enumerate(parts) if is_wildcard(part)), len(parts))
    if first == len(parts) or path.startswith(("http://", "https://")):  # these hold ? in their own right
        info = filesystem.info(path)
        return [info] if info["type"] == "file" else walk(filesystem, path, {("**",)})
    return walk(filesystem, "/".join(parts[:first]), {tuple(parts[first:])})


def walk(filesystem: AbstractFileSystem, folder: str, patterns: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Files below a folder that match one of the patterns, each a tuple of parts.

    fsspec's own `find` and `glob` leave out folders that may not be read, without a word; `ls` raises an error.
    """
    for info in filesystem.ls(folder, detail=True):
        name = PurePosixPath(info["name"]).name
        if info["name"].rstrip("/") == folder.rstrip("/"):  # object stores may hold an object of the folder's name
            continue
        remaining = set().union(*(match_first(pattern, name) for pattern in patterns))
        if info["type"] == "file" and () in remaining:
            yield info
        elif info["type"] == "directory" and (deeper := remaining - {()}):
            yield from walk(filesystem, info["name"], deeper)


def match_first(pattern: tuple[str, ...], name: str) -> set[tuple[str, ...]]:
    """What remains of a pattern for the parts of a path behind `name`, its first part; nothing if it does not match."""
    first, rest = pattern[0], pattern[1:]
    hidden = name.startswith(".")
    if first == "**":
        return match_first(rest or ("*",), name) | (set() if hidden else {pattern})
    return {rest} if fnmatch.fnmatchcase(name, first) and (first.startswith(".") or not hidden) else set()


@contextlib.contextmanager
def translate_remote_errors(url: str) -> Iterator[None]:
    """Turns whatever a file system's library raises into a DataError that names the URL: each has errors of its own."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__ if str(error) == url else None  # over HTTP every failure ends as this one
        raise DataError(f"{url}: not found ({first_line(cause or error)}); check the name") from error
    except PermissionError as error:
        raise DataError(f"{url}: access is denied ({first_line(error)}); check the credentials and the name") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{url}: can't be read ({reason}); check the network and the credentials") from error


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
