"""Finds and loads tasks, groups and tags of lm-evaluation-harness, and says what is wrong with one in a line.

launch/inference/harness.py imports it, once the package may be imported.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import datasets
import jinja2
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from data.errors import DataError
from train.fields import ConfigError

VERSION = metadata.version("lm_eval")


def find_tasks(names: Sequence[str], include: str | None) -> TaskManager:
    """The index of tasks that has these names. Raises ConfigError where one is none of a task, a group or a tag."""
    if include is not None and not Path(include).is_dir():
        raise ConfigError(f"--include {include}: no such folder; name one that holds task files (*.yaml)")
    own = TaskManager(include_path=include, include_defaults=False) if include else None
    if own and all(is_whole(own, name) for name in names):
        return own  # the index of its own tasks takes seconds
    tasks = TaskManager(include_path=include)
    for name in names:
        if name not in tasks.all_tasks:
            close = difflib.get_close_matches(name, tasks.all_tasks, n=3)
            right = f"the nearest are {', '.join(close)}" if close else f"it has {len(tasks.all_tasks):,} others"
            where = f"neither {include} nor lm-evaluation-harness" if include else "lm-evaluation-harness"
            has = "has such a task" if include else "has no such task"
            raise ConfigError(f"--harness {name}: {where} {VERSION} {has}; {right}")
    return tasks


def members(tasks: TaskManager, name: str) -> list[str]:
    """The names in a group or a tag, those that a group's file defines in place, too; of a task none."""
    entry = tasks.task_index[name]
    own = sorted(entry.tags) if name in tasks.all_tags else (entry.cfg or {}).get("task")
    listed = own if isinstance(own, list) else []
    names = [one.get("group") or one.get("task") if isinstance(one, dict) else one for one in listed]
    return [one for one in names if one != name]


def is_whole(tasks: TaskManager, name: str) -> bool:
    """Whether an index has a name and all that is in it."""
    return name in tasks.task_index and all(is_whole(tasks, one) for one in members(tasks, name))


def place_of(tasks: TaskManager, name: str) -> str:
    """A name with its file, for a message."""
    entry = tasks.task_index.get(name)
    return f"{name} ({entry.yaml_path})" if entry and entry.yaml_path else name


def load_all(tasks: TaskManager, names: Sequence[str]) -> dict[str, dict]:
    """The `tasks` and `groups` of these names, by name. Raises ConfigError where a task is in two of them."""
    loaded, owners = {"tasks": {}, "groups": {}}, {}
    for name in dict.fromkeys(names):
        own = load(tasks, name)
        for task in own["tasks"]:
            if owners.setdefault(task, name) != name:
                raise ConfigError(f"--harness {','.join(names)}: {task} is in {owners[task]} and in {name}; name one")
        loaded = {kind: found | own[kind] for kind, found in loaded.items()}
    return loaded


def load(tasks: TaskManager, name: str) -> dict[str, dict]:
    """What the package loads for a name. Raises DataError with the task of a group or tag that can't be loaded, or with
    a name in a group that is none, which the package takes for a task without data."""
    try:
        with explain_errors(place_of(tasks, name)):
            return tasks.load([name])
    except DataError:
        for one in members(tasks, name):
            if one in tasks.task_index:
                load(tasks, one)
            elif one in tasks.task_index[name].cfg["task"]:
                raise DataError(f"--harness {place_of(tasks, name)}: there is no task {one!r}") from None
        raise


@contextlib.contextmanager
def explain_errors(place: str, fields: Sequence[str] = ()) -> Iterator[None]:
    """Turns what the package and `datasets` raise where a task can't be loaded, or its requests not be built from data
    of these fields, into a DataError of one line."""
    try:
        yield
    except StopIteration:  # the package looks at a task's first example
        raise DataError(f"--harness {place}: no example in its data; give it one at least") from None
    except jinja2.TemplateError as error:
        known = f"; its data have {', '.join(fields)}" if fields else "; name a field of its data"
        raise DataError(f"--harness {place}: a template: {error}{known}") from None
    except (OSError, LookupError, ValueError, TypeError, ImportError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error  # `datasets` says that it failed; what it was made of says why
        reason = " ".join(str(cause).split())
        known = f"{type(cause).__name__} {reason}; its data have {', '.join(fields)}" if fields else reason
        raise DataError(f"--harness {place}: {known}") from None


def checked_building(task: Task, place: str) -> Callable[..., None]:
    """Builds a task's requests, as its own method, and what is right for each document too, which the package looks for
    once all is scored. It explains what a template asks for in vain."""
    build = task.build_all_requests

    def build_checked(**options) -> None:
        fields = list(next(iter(task.eval_docs), {}))
        with explain_errors(place, fields):
            build(**options)
            for _, document in task.doc_iterator():
                task.doc_to_target(document)

    return build_checked
