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
    names = [task.choices] if isinstance(task.choices, str) else []
    remedy = f"task {task.name} names it in its template or choices; set another, as --set {task.name}.template=…"
    records = read_records(Source(task.data), names, remedy, template)
    examples = [
        read_example(task, template, index, record, origin)
        for index, (record, origin) in enumerate(itertools.islice(records, task.limit))
    ]
    if not examples:
        raise DataError(f"{task.data}: no records in it, and task {task.name} needs one at least")
    return examples


def read_example(task: Task, template: Template, index: int, record: dict, origin: str) -> Example:
    prompt, answer = template.divide(record)
    if not answer.strip():
        raise DataError(f"{origin}: the template of task {task.name} writes no answer of this record")
    if not task.choices:
        return Example(index, origin, prompt, answer)
    choices = task.choices if isinstance(task.choices, tuple) else read_choices(record[task.choices], task, origin)
    stripped = [choice.strip() for choice in choices]
    if answer.strip() not in stripped:
        raise DataError(
            f"{origin}: the answer {answer.strip()!r} is none of the choices {', '.join(map(repr, choices))}"
        )
    return Example(index, origin, prompt, answer, choices, stripped.index(answer.strip()))


def read_choices(value: Any, task: Task, origin: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise DataError(f"{origin}: field {task.choices!r} is no list of texts, which are to be the choices")
    return tuple(value)
