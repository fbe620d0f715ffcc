"""The examples of a task: each record's prompt, its answer and the answers it is chosen from, all checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

from data.config import Source
from data.errors import DataError
from data.sources.source import read_records
from data.templates import Template
from launch.inference.tasks.example import Example
from launch.inference.tasks.task import Task


def read_examples(task: Task) -> list[Example]:
    """All examples of a task. Raises DataError naming the task or the record that is wrong."""
    try:
        template = Template(task.template)
    except DataError as error:
        raise DataError(f"task {task.name}: {error}") from None
    own = [name for name in (task.choices, task.label) if isinstance(name, str)]
    names = [*template.fields, *own]
    remedy = (
        f"task {task.name} names it in its template, choices or label; set another, as --set {task.name}.template=…"
    )
    records = read_records(Source(task.data), names, remedy)
    examples = [
        read_example(task, template, index, record, origin)
        for index, (record, origin) in enumerate(itertools.islice(records, task.limit))
    ]
    if not examples:
        raise DataError(f"{task.data}: no records in it, and task {task.name} needs one at least")
    return examples


def read_example(task: Task, template: Template, index: int, record: dict, origin: str) -> Example:
    own = [name for name in (task.choices, task.label) if isinstance(name, str)]
    record = record | {name: strip_texts(record[name]) for name in own}
    choices = choices_of(task, record, origin)
    meant = labelled(record[task.label], choices, origin) if task.label else choices
    try:
        prompt, answer = template.divide(record)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    check_characters((prompt, answer, *choices), origin)
    if not answer.strip():
        raise DataError(f"{origin}: the template of task {task.name} writes no answer of this record")
    if not choices:
        return Example(index, origin, prompt, answer)
    if answer.strip() not in choices:
        raise DataError(
            f"{origin}: the answer {answer.strip()!r} is none of the choices {', '.join(map(repr, choices))}"
        )
    if answer.strip() not in meant:
        raise DataError(
            f"{origin}: the template of task {task.name} writes {answer.strip()!r} for the label "
            f"{record[task.label]!r}, which stands for {' or '.join(map(repr, meant))}; mend the template"
        )
    return Example(index, origin, prompt, answer, choices, choices.index(answer.strip()))


def check_characters(texts: Iterable[str], origin: str) -> None:
    """Raises DataError where a text holds what UTF-8 can't write, and no file of results either."""
    for text in texts:
        if half := re.search("[\ud800-\udfff]", text):  # JSON can write it
            raise DataError(
                f"{origin}: {half[0]!r} at offset {half.start()} of {text[:40]!r} is half of a surrogate pair; write "
                "both halves or the character itself"
            )


def choices_of(task: Task, record: dict, origin: str) -> tuple[str, ...]:
    """The choices of a record without white space around them; none where the task has none."""
    if not isinstance(task.choices, str):
        return tuple(choice.strip() for choice in task.choices or ())
    own = record[task.choices]
    if not isinstance(own, list) or not own or not all(isinstance(choice, str) and choice for choice in own):
        raise DataError(f"{origin}: field {task.choices!r} is no list of texts, which are to be the choices")
    return tuple(own)


def strip_texts(value: Any) -> Any:
    """A field's text, or each text of its list, without white space around it; what is neither stays."""
    if isinstance(value, list):
        return [strip_texts(one) for one in value]
    return value.strip() if isinstance(value, str) else value


def labelled(label: Any, choices: tuple[str, ...], origin: str) -> list[str]:
    """The choices that a label may stand for: the one with its text, the one with its index from 0."""
    meant = [choice for number, choice in enumerate(choices) if str(label) in (str(number), choice)]
    if not meant:
        there = ", ".join(f"{number} {choice!r}" for number, choice in enumerate(choices))
        raise DataError(f"{origin}: the label {label!r} is none of those there are: {there}")
    return meant
