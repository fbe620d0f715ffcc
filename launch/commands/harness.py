"""`skald evaluate RUN --harness TASKS`: metrics of tasks of lm-evaluation-harness. evaluate.py calls it."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace

from launch.commands.text_options import given_text_options
from launch.inference.checkpoint import LoadedCheckpoint
from train.fields import ConfigError


def check_arguments(arguments: Namespace) -> None:
    """Raises ConfigError for options that do not go together, or that need what is not installed."""
    if arguments.harness is None:
        if arguments.include is not None:
            raise ConfigError("--include: it goes with --harness")
        return
    if not task_names(arguments):
        raise ConfigError("--harness names no task; write names with commas between them")
    if arguments.tasks or arguments.set:
        raise ConfigError("--harness has its own tasks; --tasks and --set go without it")
    if arguments.watch or arguments.timeout or arguments.other is not None:
        raise ConfigError("--harness scores one checkpoint; --watch, --timeout and OTHER go without it")
    if given := given_text_options(arguments):
        raise ConfigError(f"--{given[0]}: it goes with a text, and --harness scores tasks; leave one of them out")
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--harness: lm-evaluation-harness is not installed; pip install 'skald[harness]'")


def task_names(arguments: Namespace) -> list[str]:
    return [name.strip() for name in arguments.harness.split(",") if name.strip()]


def evaluate_harness(arguments: Namespace) -> int:
    """Scores tasks of lm-evaluation-harness, and prints a line for each of their metrics, and where their examples'
    results are."""
    from launch.inference.harness import VERSION, evaluate_tasks  # heavy, and it needs an optional package

    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    tasks = evaluate_tasks(run, task_names(arguments), arguments.include, arguments.results)
    if arguments.json:
        print(json.dumps({"step": run.step, "tasks": tasks}))
        return 0
    print(f"{run.name} at step {run.step}, lm-evaluation-harness {VERSION}")
    print("\n".join(metric_lines(tasks)))
    for name, values in tasks.items():
        if "results" in values:
            print(f"{name}: each example in {values['results']}")
    return 0


def metric_lines(tasks: dict[str, dict]) -> list[str]:
    """A table of tasks: examples, metric, value, standard error."""
    rows = [("task", "examples", "metric", "value", "")]
    for name, values in tasks.items():
        for metric in [key for key in values if key not in ("examples", "harness", "results") and "_stderr" not in key]:
            base, *filters = metric.split(",")
            error = values.get(",".join([f"{base}_stderr", *filters]))
            shown = "" if error is None else f"± {error:.4f}"
            rows.append((name, f"{values['examples']:,}", metric, f"{values[metric]:.4f}", shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
