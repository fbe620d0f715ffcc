"""Scores of checkpoints: what `evaluate --watch` wrote into RUN/evaluations.jsonl, and the results of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element, table
from launch.report.json_files import Part
from launch.report.numbers import percent, significant
from launch.report.run_files import RunFiles, TaskResults
from launch.report.section import Section, code, run_heading, sentence

MOST = 40  # evaluations that are shown, the newest
TITLES = {"loss": "loss", "perplexity": "perplexity", "bits_per_byte": "bits a byte"}


def scores(runs: Sequence[RunFiles]) -> Section:
    missing = sentence(
        "None yet: ", code(f"skald evaluate {runs[0].folder} --watch"), " scores every checkpoint, ",
        code("--tasks sentiment"), " tasks.",
    )  # fmt: skip
    parts: list[Markup | None] = []
    for number, run in enumerate(runs):
        own = [evaluations_table(run.evaluations) if run.evaluations else None]
        own.append(tasks_table(run.tasks) if run.tasks else None)
        if any(own):
            parts += [run_heading(run.name, number, len(runs)), *own]
    return Section("evaluations", "Evaluations and tasks", tuple(parts), missing)


def evaluations_table(lines: Sequence[Part]) -> Markup:
    shown = sorted(lines, key=lambda line: line["step"].whole())[-MOST:]
    metrics = [name for name in TITLES if any(line.get(name) for line in shown)]
    tasks = list(dict.fromkeys(name for line in shown for name in task_metrics(line)))
    several = len({text_of(line) for line in shown}) > 1
    rows = [
        [
            f"{line['step'].whole():,}",
            *([text_of(line)] if several else []),
            *(significant(value.number()) if (value := line.get(name)) else None for name in metrics),
            *(significant(task_metrics(line).get(name)) for name in tasks),
        ]
        for line in shown
    ]
    of = element("p", f"Text: {text_of(shown[0])}.", class_="note") if not several else None
    head = ["step", *(["text"] if several else []), *(TITLES[name] for name in metrics), *tasks]
    left_out = element("p", f"The newest {MOST} of {len(lines)}.", class_="note") if len(shown) < len(lines) else None
    return element("div", of, table(head, rows, class_="numbers"), left_out)


def text_of(line: Part) -> str:
    """What an evaluation read."""
    evaluated = line.get("evaluated")
    text = evaluated and evaluated.get("text")
    return "the validation split" if text is None else str(text.value)


def task_metrics(line: Part) -> dict[str, float]:
    """The numbers of each task by `task metric`: the first of each, its main one."""
    found = {}
    for task, values in tasks.items() if (tasks := line.get("tasks")) else ():
        numbers = {k: v for k, v in values.expect(dict).items() if isinstance(v, float)}
        found |= {f"{task} {name.replace('_', ' ')}": value for name, value in list(numbers.items())[:1]}
    return found


def tasks_table(tasks: Sequence[TaskResults]) -> Markup:
    """How many examples of each task have a result, and how many of these are right where a task says so."""
    rows = []
    for task in tasks:
        right = [value.flag() for one in task.results if (value := one.get("correct"))]
        share = f"{percent(sum(right) / len(right))} ({sum(right):,} of {len(right):,})" if right else None
        errors = sum(bool(one.get("error")) for one in task.results)
        rows.append([task.name, f"{task.step:,}", f"{len(task.results):,}", share, f"{errors:,}"])
    return table(["task", "step", "examples", "right", "errors"], rows, class_="numbers")
