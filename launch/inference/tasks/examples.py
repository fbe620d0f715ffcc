"""The examples of a task: each record's prompt, its answer and the answers it is chosen from, all checked."""

from __future__ import annotations

import itertools
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
    choices = choices_of(task, record, origin)
    meant = labelled(record[task.label], choices, origin) if task.label else choices
    try:
        prompt, answer = template.divide(record)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
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


def choices_of(task: Task, record: dict, origin: str) -> tuple[str, ...]:
    """The choices of a record without white space around them; none where the task has none."""
    if not isinstance(task.choices, str):
        return tuple(choice.strip() for choice in task.choices or ())
    own = record[task.choices]
    if not isinstance(own, list) or not own or not all(isinstance(choice, str) and choice.strip() for choice in own):
        raise DataError(f"{origin}: field {task.choices!r} is no list of texts, which are to be the choices")
    return tuple(choice.strip() for choice in own)


def labelled(label: Any, choices: tuple[str, ...], origin: str) -> list[str]:
    """The choices that a label may stand for: the one with its text, the one with its index from 0."""
    text = str(label).strip()
    meant = [choice for number, choice in enumerate(choices) if text in (str(number), choice)]
    if not meant:
        there = ", ".join(f"{number} {choice!r}" for number, choice in enumerate(choices))
        raise DataError(f"{origin}: the label {label!r} is none of those there are: {there}")
    return meant
