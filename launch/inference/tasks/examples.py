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
        reader = ExampleReader(task, Template(task.template))
    except DataError as error:
        raise DataError(f"task {task.name}: {error}") from None
    remedy = (
        f"task {task.name} names it in its template, choices or label; set another, as --set {task.name}.template=…"
    )
    records = read_records(Source(task.data), reader.own, remedy, reader)
    examples = [
        Example(index, origin, *reader.read(record))
        for index, (record, origin) in enumerate(itertools.islice(records, task.limit))
    ]
    if not examples:
        raise DataError(f"{task.data}: no records in it, and task {task.name} needs one at least")
    return examples


class ExampleReader:
    """Makes examples of a task's records. Where records are read it is tried as their Writer (data/sources/records.py),
    and what is wrong with one is said with its place. `own`: the fields that the task names outside of its template."""

    def __init__(self, task: Task, template: Template):
        self.task, self.template = task, template
        self.own = [name for name in (task.choices, task.label) if isinstance(name, str)]
        self.fields, self.required = template.fields, template.required

    def parts(self, record: dict) -> list[tuple[str, bool]]:
        prompt, answer, *_ = self.read(record)
        return [(prompt, False), (answer, True)]

    def read(self, record: dict) -> tuple[str, str, tuple[str, ...], int]:
        """The prompt, the answer, the choices and which of them the answer is: of a record without choices none, and 0.
        Raises DataError."""
        record = record | {name: strip_texts(record[name]) for name in self.own}
        choices = choices_of(self.task, record)
        meant = labelled(record[self.task.label], choices) if self.task.label else choices
        prompt, answer = self.template.divide(record)
        check_characters((prompt, answer, *choices))
        if not answer.strip():
            raise DataError(f"the template of task {self.task.name} writes no answer of this record")
        if not choices:
            return prompt, answer, (), 0
        if answer.strip() not in choices:
            raise DataError(f"the answer {answer.strip()!r} is none of the choices {', '.join(map(repr, choices))}")
        if answer.strip() not in meant:
            raise DataError(
                f"the template of task {self.task.name} writes {answer.strip()!r} for the label "
                f"{record[self.task.label]!r}, which stands for {' or '.join(map(repr, meant))}; mend the template"
            )
        return prompt, answer, choices, choices.index(answer.strip())


def check_characters(texts: Iterable[str]) -> None:
    """Raises DataError where a text holds what UTF-8 can't write, and no file of results either."""
    for text in texts:
        if half := re.search("[\ud800-\udfff]", text):  # JSON can write it
            raise DataError(
                f"{half[0]!r} at offset {half.start()} of {text[:40]!r} is half of a surrogate pair; write "
                "both halves or the character itself"
            )


def choices_of(task: Task, record: dict) -> tuple[str, ...]:
    """The choices of a record without white space around them; none where the task has none."""
    if not isinstance(task.choices, str):
        return tuple(choice.strip() for choice in task.choices or ())
    own = record[task.choices]
    if not isinstance(own, list) or not own or not all(isinstance(choice, str) and choice for choice in own):
        raise DataError(f"field {task.choices!r} is no list of texts, which are to be the choices")
    return tuple(own)


def strip_texts(value: Any) -> Any:
    """A field's text, or each text of its list, without white space around it; what is neither stays."""
    if isinstance(value, list):
        return [strip_texts(one) for one in value]
    return value.strip() if isinstance(value, str) else value


def labelled(label: Any, choices: tuple[str, ...]) -> list[str]:
    """The choices that a label may stand for: the one with its text, the one with its index from 0."""
    meant = [choice for number, choice in enumerate(choices) if str(label) in (str(number), choice)]
    if not meant:
        there = ", ".join(f"{number} {choice!r}" for number, choice in enumerate(choices))
        raise DataError(f"the label {label!r} is none of those there are: {there}")
    return meant
