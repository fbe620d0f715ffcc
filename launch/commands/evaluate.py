"""`skald evaluate RUN`: nats a token, perplexity and bits a byte over the validation split or a text file; with
--harness the metrics of tasks."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import evaluate
from train.fields import ConfigError

TEXT_OPTIONS = ("text", "field", "window", "stride", "examples")  # of what is scored where no task is


def main(arguments: Namespace) -> int:
    check_arguments(arguments)
    if arguments.harness:
        return evaluate_harness(arguments)
    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    examples = [] if arguments.examples else None
    if arguments.examples:
        open(arguments.examples, "a").close()  # what is wrong with it is said before anything is scored
    scores = evaluate(run, arguments.text, arguments.window, arguments.stride, arguments.field, examples)
    if arguments.examples:
        lines = (json.dumps(example, ensure_ascii=False) for example in examples)
        Path(arguments.examples).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if arguments.json:
        print(json.dumps(scores))
    else:
        print(
            f"{run.name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity "
            f"{scores['perplexity']:.3f}, {scores['bits_per_byte']:.4f} bits a byte\n"
            f"{scores['tokens']} tokens of {arguments.text or 'the validation split'}, window {scores['window']}, "
            f"stride {scores['stride']}"
        )
        found = scores["calibration"]
        print(
            f"the most likely token is right {found['accuracy']:.1%} of the time; calibration error "
            f"{found['ece']:.4f}, Brier score {found['brier']:.4f}"
        )
        if "unquantized" in scores:
            plain = scores["unquantized"]
            print(
                f"weights in {run.execution.quantize}; as they are: {plain['loss']:.4f} nats a token, perplexity "
                f"{plain['perplexity']:.3f}; it grows by {scores['perplexity'] / plain['perplexity'] - 1:z.2%}"
            )
    return 0


def check_arguments(arguments: Namespace) -> None:
    """Raises ConfigError for options that do not go together, or that need what is not installed."""
    if arguments.include and not arguments.harness:
        raise ConfigError("--include: it goes with --harness")
    if not arguments.harness:
        return
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
    print("\n".join(task_lines(tasks)))
    return 0


def task_lines(tasks: dict[str, dict]) -> list[str]:
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
