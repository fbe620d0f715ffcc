"""`skald evaluate RUN`: nats a token, perplexity and bits a byte of the validation split or a text; tasks."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from launch.commands.harness import check_arguments, evaluate_harness
from launch.commands.progress import ProgressReport
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.evaluation import evaluate
from launch.inference.tasks.task import read_tasks
from train.fields import ConfigError

LIVE_SECONDS, LINE_SECONDS = 0.5, 10.0  # between lines of progress: on a terminal, and elsewhere


def main(arguments: Namespace) -> int:
    check_arguments(arguments)
    if arguments.harness:
        return evaluate_harness(arguments)
    tasks = read_tasks([name for names in arguments.tasks for name in names.split(",")], arguments.set)
    if arguments.results and not tasks:
        raise ConfigError("--results keeps what tasks find; name them with --tasks")
    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    examples = [] if arguments.examples else None
    if arguments.examples:
        open(arguments.examples, "a").close()  # what is wrong with it is said before anything is scored
    report = ProgressReport()
    seconds = LIVE_SECONDS if report.on_terminal else LINE_SECONDS
    text = (arguments.text, arguments.window, arguments.stride, arguments.field, examples)
    scores = evaluate(run, *text, tasks, arguments.results, report, seconds)
    if arguments.examples:
        lines = (json.dumps(example, ensure_ascii=False) for example in examples)
        Path(arguments.examples).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if arguments.json:
        print(json.dumps(scores))
    else:
        print("\n".join([*text_lines(run, arguments.text, scores), *task_lines(scores["tasks"])]))
    return 0


def text_lines(run: LoadedCheckpoint, text: str | None, scores: dict) -> Iterator[str]:
    """What is said of the scores of a text; nothing where there was none."""
    if scores["loss"] is None:
        return
    yield (
        f"{run.name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity "
        f"{scores['perplexity']:.3f}, {scores['bits_per_byte']:.4f} bits a byte"
    )
    yield (
        f"{scores['tokens']} tokens of {text or 'the validation split'}, window {scores['window']}, "
        f"stride {scores['stride']}"
    )
    found = scores["calibration"]
    yield (
        f"the most likely token is right {found['accuracy']:.1%} of the time; calibration error "
        f"{found['ece']:.4f}, Brier score {found['brier']:.4f}"
    )
    if "unquantized" in scores:
        plain = scores["unquantized"]
        yield (
            f"weights in {run.execution.quantize}; as they are: {plain['loss']:.4f} nats a token, perplexity "
            f"{plain['perplexity']:.3f}; it grows by {scores['perplexity'] / plain['perplexity'] - 1:z.2%}"
        )


def task_lines(tasks: dict[str, dict]) -> Iterator[str]:
    """What is said of each task: its metrics, accuracies with their intervals, and where each example's result is."""
    for name, found in tasks.items():
        yield f"{name}, {found['metric']}, {found['examples']:,} examples, each in {found['results']}"
        for metric, value in found.items():
            if not isinstance(value, float) or metric.endswith(("_interval", "_signature")):
                continue
            shown = f"{value:.4f}"
            if interval := found.get(f"{metric}_interval"):
                shown += f" (95%: {interval[0]:.4f} to {interval[1]:.4f})"
            if signature := found.get(f"{metric}_signature"):
                shown += f" ({signature})"
            yield f"  {metric.replace('_', ' ')} {shown}"
