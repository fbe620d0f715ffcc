"""`skald evaluate RUN --harness TASKS`: metrics of tasks of lm-evaluation-harness. evaluate.py calls it."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace

from launch.inference.checkpoint import LoadedCheckpoint
from train.fields import ConfigError

TEXT_OPTIONS = ("text", "field", "window", "stride", "examples")  # of what is scored where no task is


def check_arguments(arguments: Namespace) -> None:
    """Raises ConfigError for options that do not go together, or that need what is not installed."""
    if arguments.include and not arguments.harness:
        raise ConfigError("--include: it goes with --harness")
    if not arguments.harness:
        return
    if arguments.tasks or arguments.set or arguments.results:
        raise ConfigError("--harness has its own tasks; --tasks, --set and --results go without it")
    if arguments.watch or arguments.other is not None:
        raise ConfigError("--harness scores one checkpoint; --watch and OTHER go without it")
    if given := [name for name in TEXT_OPTIONS if getattr(arguments, name) is not None]:
        raise ConfigError(f"--{given[0]}: it goes with a text, and --harness scores tasks; leave one of them out")
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--harness: lm-evaluation-harness is not installed; pip install 'skald[harness]'")


def evaluate_harness(arguments: Namespace) -> int:
    """Scores tasks of lm-evaluation-harness, and prints a line for each of their metrics."""
    from launch.inference.harness import VERSION, evaluate_tasks  # heavy, and it needs an optional package

    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    names = [name for name in arguments.harness.split(",") if name]
    tasks = evaluate_tasks(run, names, arguments.include)
    if arguments.json:
        print(json.dumps({"step": run.step, "tasks": tasks}))
        return 0
    print(f"{run.name} at step {run.step}, lm-evaluation-harness {VERSION}")
    print("\n".join(metric_lines(tasks)))
    return 0


def metric_lines(tasks: dict[str, dict]) -> list[str]:
    """A table of tasks: examples, metric, value, standard error."""
    rows = [("task", "examples", "metric", "value", "")]
    for name, values in tasks.items():
        for metric in [key for key in values if key not in ("examples", "harness") and "_stderr" not in key]:
            base, *filters = metric.split(",")
            error = values.get(",".join([f"{base}_stderr", *filters]))
            shown = "" if error is None else f"± {error:.4f}"
            rows.append((name, f"{values['examples']:,}", metric, f"{values[metric]:.4f}", shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
