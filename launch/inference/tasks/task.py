"""The form of an evaluation task: a TOML file of a few lines, which `skald evaluate --tasks` and launch/api.py read.

data = "dev.tsv"
template = "{{ sentence }}\n{% generation %}{{ {'0': 'negative', '1': 'positive'}[label | string] }}{% endgeneration %}"
metric = "classification"
choices = ["negative", "positive"]
label = "label"
"""

from __future__ import annotations

import collections
import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import configs
from launch.inference.tasks.metrics import METRICS
from train import fields
from train.fields import ConfigError, did_you_mean

SHIPPED = Path(configs.__path__[0]) / "tasks"
TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2")


@dataclass(frozen=True)
class Task:
    """An evaluation task.

    `data`: where its records come from, as `Source.path`; in a file relative to that file's folder. `template`: Jinja,
    or a file of it, that makes a record's prompt and, within {% generation %}…{% endgeneration %}, its answer: what
    supervised fine-tuning trains with, too. `metric`: a name of METRICS. `choices`: the answers there are, or the field
    of a record that lists its own. `label`: the field of a record that says which of them is right, by its text or its
    index from 0: a label that is none of these is refused, and so is a template that writes another answer.

    `tokenization`: of a prompt and what is scored behind it, `together` as one text, as lm-evaluation-harness does, or
    `apart`, as fine-tuning with a template does. `sampler`, `max_new_tokens`, `stop`: of texts that the model writes.
    `limit`: so many records at most, the first; None: all.
    """

    name: str
    template: str
    metric: str
    data: str = ""
    choices: tuple[str, ...] | str | None = None
    label: str | None = None
    tokenization: Literal["together", "apart"] = "together"
    sampler: str = "greedy"
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    limit: int | None = None


def read_tasks(names: Sequence[str], settings: Sequence[str] = ()) -> list[Task]:
    """Tasks by the names of those that come with this program, or by their files, with every NAME.FIELD=VALUE of
    `settings` applied. Raises ConfigError."""
    read = [read_task(name) for name in names]
    check_names(read)
    tasks = {task.name: task for task in read}
    for setting in settings:
        path, equals, value = setting.partition("=")
        name = next((n for n in sorted(tasks, key=len, reverse=True) if path.startswith(f"{n}.")), None)
        if not tasks:
            raise ConfigError(f"--set {setting} changes a field of a task; name the task with --tasks")
        if not equals or name is None:
            hint = did_you_mean(path.split(".")[0], tasks)
            raise ConfigError(f"--set {setting}: write TASK.FIELD=VALUE, as {next(iter(tasks))}.limit=100{hint}")
        try:
            tasks[name] = fields.replace_at(tasks[name], path.removeprefix(f"{name}."), value)
        except ConfigError as error:
            raise ConfigError(f"task {name}: {error}") from None
    return [checked(task) for task in tasks.values()]


def check_names(tasks: Sequence[Task]) -> None:
    """Raises ConfigError where two tasks have one name: results and scores are kept by it."""
    for name, count in collections.Counter(task.name for task in tasks).items():
        if count > 1:
            raise ConfigError(f"two tasks are named {name!r}; give one of them another name = …, or leave it out")


def read_task(name: str) -> Task:
    """One task by its name or file. Raises ConfigError."""
    file = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not name.endswith(".toml") and not file.is_file():
        shipped = sorted(path.stem for path in SHIPPED.glob("*.toml"))
        raise ConfigError(
            f"no task {name!r}; there are {', '.join(shipped)}, or a TOML file's path{did_you_mean(name, shipped)}"
        )
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{file}: no task in TOML can be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    try:
        task = fields.build(Task, {"name": file.stem} | values, "")
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix('Task: ')}") from None
    template = beside(task.template, file) if task.template.endswith(TEMPLATE_ENDINGS) else task.template
    return dataclasses.replace(task, template=template, data=beside(task.data, file))


def beside(path: str, file: Path) -> str:
    """A path that a file gives, relative to its folder; URLs, data sets and what is in a home folder stay."""
    if not path or path.startswith("~") or ":" in path.split("/")[0]:
        return path
    return str(file.parent / path)


def check_choices(task: Task) -> None:
    """Raises ConfigError where choices are not texts of their own: white space around them does not count."""
    if not isinstance(task.choices, tuple):
        return
    for choice, count in collections.Counter(choice.strip() for choice in task.choices).items():
        if not choice:
            raise ConfigError(f"task {task.name}: one of its choices is empty; write the text of each, or leave it out")
        if count > 1:
            raise ConfigError(
                f"task {task.name}: {count} of its choices are {choice!r}, as space around them does not count"
            )


def checked(task: Task) -> Task:
    """The task. Raises ConfigError where its fields do not go together."""
    if task.metric not in METRICS:
        hint = did_you_mean(task.metric, METRICS)
        raise ConfigError(f"task {task.name}: no metric {task.metric!r}; there are {', '.join(METRICS)}{hint}")
    if not task.name or "/" in task.name:
        raise ConfigError(f"task {task.name!r}: its name is that of a file of results; write a word")
    if not task.data:
        raise ConfigError(
            f"task {task.name} names no data; name them in the file, or for evaluate as --set {task.name}.data=FILE"
        )
    if METRICS[task.metric].needs_choices and not task.choices:
        raise ConfigError(
            f'task {task.name}: the metric {task.metric} needs choices: a list of answers, as ["no", "yes"], or the '
            "name of the field that holds one"
        )
    if task.label and not task.choices:
        raise ConfigError(f"task {task.name}: label is {task.label!r}, and there are no choices that it could name")
    check_choices(task)
    for name in ("max_new_tokens", "limit"):
        if (value := getattr(task, name)) is not None and value < 1:
            raise ConfigError(f"task {task.name}: {name} is {value}; it must be at least 1")
    return task
