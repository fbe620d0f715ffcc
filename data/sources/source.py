"""Opens a source: the files that it names, their documents, and a fingerprint of their content.

data/store/ tokenizes the documents; the vocabulary of characters reads them directly.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.config import Source
from data.errors import DataError, MissingFieldError, NotTextError
from data.sources import array_records, containers, hub, parallel, tfds
from data.sources.document import Document, Refusal, SourceFile
from data.sources.ending import detect_ending
from data.sources.files import FoundFile, expand_home, list_files
from data.sources.local_file import LocalFile, local_ending
from data.sources.records import Fields
from data.sources.remote_file import is_url, list_remote_files
from data.templates import Template, read_template

EMBEDDED = {"embedded:shakespeare": str(Path(__file__).parents[1] / "corpora" / "tinyshakespeare.txt")}
DATA_SETS = {"tfds": tfds.open_split, "hf": hub.open_split}  # by what stands before the colon of a path
KINDS = "a file, a folder, a glob, a URL (s3://BUCKET/PATH), a data set"
KINDS += f" ({tfds.PREFIX}NAME/SPLIT, {hub.PREFIX}NAME/SPLIT) or {', '.join(EMBEDDED)}"
TEMPLATE_RULES = 2  # by which templates make documents: another number wherever the same template makes others
FIELD_REMEDY = (
    "set the source's field (data.source.field, data.source.prompt for the prompt, data.source.template for both, "
    "data.source.rejected for the worse response, or those of data.validation_source)"
)


def open_source(source: Source, ids: bool = False, field_remedy: str = FIELD_REMEDY) -> list[SourceFile]:
    """The files of a source, in a fixed order; none of them is read. Raises DataError where there are none.

    `ids`: their records hold lists of token ids instead of text. `field_remedy` is added to the message where a data
    set lacks the source's field: how to name another one.
    """
    return open_fields(source, fields_of(source, ids), field_remedy)


def fields_of(source: Source, ids: bool) -> Fields:
    """What is read of a source's records. Raises DataError for a template that does not fit."""
    if source.template is None:
        return Fields(source.field, source.prompt, ids, rejected=source.rejected)
    if ids:
        raise DataError(f"{source.path}: a template makes text, and the tokenizer kind ids reads token ids")
    if source.prompt is not None:
        raise DataError(f"{source.path}: a template and a prompt field; the template has the prompt, leave out prompt")
    template = Template(source.template)
    if source.rejected is not None and source.field not in template.fields:
        raise DataError(
            f"{source.path}: the template reads {', '.join(template.fields)} and not {source.field!r}; name its field "
            "of the better response, whose place the worse one takes (data.source.field)"
        )
    return Fields(source.field, template=template, rejected=source.rejected)


def open_fields(source: Source, fields: Fields, field_remedy: str = FIELD_REMEDY) -> list[SourceFile]:
    """The files of a source, from whose records `fields` are read."""
    if open_data_set := DATA_SETS.get(source.path.partition(":")[0]):
        try:
            return open_data_set(source, fields)
        except MissingFieldError as error:
            raise DataError(f"{error}; {field_remedy}") from None
    if names := parallel.brace_names(source.path):
        return [open_parallel(source, names, fields)]
    if is_url(source.path):
        return list_remote_files(source.path, fields)
    return [open_file(file, fields) for file in local_files(source)]


def open_parallel(source: Source, names: list[str], fields: Fields) -> SourceFile:
    """The files of which each line of one belongs to the same line of the others. Raises DataError."""
    parts = []
    for name in names:
        path = parallel.path_of(source.path, name)
        files = (
            list_remote_files(path, fields) if is_url(path) else [LocalFile(*file, fields) for file in list_files(path)]
        )
        if len(files) > 1:
            raise DataError(f"{path}: {len(files)} files; each of the names in braces stands for one")
        parts += files
    return parallel.ParallelFile(source.path, dict(zip(names, parts, strict=True)), fields)


def open_file(file: FoundFile, fields: Fields) -> SourceFile:
    if local_ending(file.name).extension in array_records.EXTENSIONS:
        return array_records.open_file(Path(file.name), fields)
    return LocalFile(*file, fields)


def local_files(source: Source) -> list[FoundFile]:
    """The local files of a source, in a fixed order. Raises DataError where there are none."""
    if not source.path:
        raise DataError(f"a source's path is empty; use {KINDS}")
    if source.path not in EMBEDDED and ":" in source.path.split("/")[0]:
        raise DataError(f"{source.path}: unknown kind of source; use {KINDS}")
    return list_files(EMBEDDED.get(source.path, source.path))


def read_documents(source: Source, field_remedy: str = FIELD_REMEDY, ids: bool = False) -> Iterator[Document]:
    """Every document of a source, in the order of its files. Raises DataError naming the first place that is none.

    `field_remedy` is added to the message where records lack the source's field: how to name another one.
    """
    return documents_of(source, open_source(source, ids, field_remedy), field_remedy)


def documents_of(source: Source, files: list[SourceFile], field_remedy: str) -> Iterator[Document]:
    for file in files:
        with add_remedies(source, file, files, field_remedy):
            for document in file.documents():
                if isinstance(document, Refusal):
                    raise document.error(document.reason)
                yield document._replace(pieces=guard(document.pieces, add_remedies(source, file, files, field_remedy)))


class WholeRecord:
    """Makes one text of a record's fields: JSON, from which they are read again. These are the fields `names`, which
    each must have, and those that a `template` reads, which it must be possible to fill in."""

    def __init__(self, names: Iterable[str], template: Template | None = None):
        of_template, required = ([], []) if template is None else (template.fields, template.required)
        self.fields, self.required, self.template = sorted({*names, *of_template}), [*names, *required], template

    def parts(self, record: dict) -> list[tuple[str, bool]]:
        if self.template is not None:
            self.template.parts(record)  # raises where it can't be
        return [(json.dumps(record), True)]


def read_records(
    source: Source, names: Sequence[str], field_remedy: str = "", template: Template | None = None
) -> Iterator[tuple[dict, str]]:
    """Every record of a source, as its fields of these names, of any type, and its origin, as "file:line"; with a
    `template` as those that it reads, too, as far as the record has them.

    Raises DataError naming the first place that is no such record.
    """
    files = open_fields(source, Fields("", template=WholeRecord(names, template)), field_remedy)
    for document in documents_of(source, files, field_remedy):
        yield json.loads(document.text), document.origin


@contextlib.contextmanager
def add_remedies(
    source: Source, file: SourceFile, files: list[SourceFile], field_remedy: str = FIELD_REMEDY
) -> Iterator[None]:
    """Adds to a NotTextError, raised where `file` is read, how to name another field, or to leave such files out."""
    try:
        yield
    except NotTextError as error:
        remedies = [field_remedy] if isinstance(error, MissingFieldError) else []
        raise DataError("; ".join([str(error), *remedies, *suggest_glob(file, source, files)])) from None


def guard(items: Iterable, context: contextlib.AbstractContextManager) -> Iterator:
    """The items, made within a context: whoever takes them is not within the one in which they were begun."""
    with context:
        yield from items


def suggest_glob(file: SourceFile, source: Source, files: list[SourceFile]) -> list[str]:
    """A remedy for an error in `file`: a glob of the commonest other ending, where the source has another one."""
    suffixes = Counter(
        suffix
        for other in files
        if detect_ending(other.name) != detect_ending(file.name) and not containers.detect_by_name(other.name)
        if (suffix := other.name[len(other.name) - len("".join(detect_ending(other.name))) :])
    )
    if not suffixes:
        return []
    example = ""
    if expand_home(source.path).is_dir():
        suffix = suffixes.most_common(1)[0][0]
        example = f", as {Path(glob.escape(source.path), '**', '*' + glob.escape(suffix))}"
    return [f"to leave such files out, name a glob of others{example}"]


def fingerprint(source: Source) -> str:
    """sha256 of a source: of its fields, and of the content of every file, in order, and how each is read."""
    return combine_fingerprint(source, ((file, file.digest()) for file in open_source(source)))


def template_source(source: Source) -> str:
    """What a source's template is, wherever it lies; a line that no field's name is."""
    return f"template {TEMPLATE_RULES}\0{read_template(source.template)[0]}"


def combine_fingerprint(source: Source, files: Iterable[tuple[SourceFile, str]]) -> str:
    """The fingerprint of a source of which each file's sha256 is known. Where the files are is no part of it."""
    sha256 = hashlib.sha256(source.field.encode() if source.template is None else template_source(source).encode())
    if source.prompt is not None:
        sha256.update(b"\0" + source.prompt.encode() + b"\0")
    if source.rejected is not None:
        sha256.update(f"\0{source.field}\0{source.rejected}\0".encode())
    for file, digest in files:
        sha256.update(bytes.fromhex(digest) + file.format.encode())
    return sha256.hexdigest()
