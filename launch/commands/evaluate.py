"""`skald evaluate RUN`: nats a token, perplexity and bits a byte of the validation split or a text; tasks."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from launch.commands.evaluate_pair import comparison_in_words, evaluate_pair
from launch.commands.evaluate_watch import watch_run
from launch.commands.harness import check_arguments, evaluate_harness
from launch.commands.progress import ProgressReport
from launch.commands.text_options import check_text_options, given_text_options
from launch.inference import scoring
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.evaluation import evaluate
from launch.inference.tasks.task import read_tasks
from train.fields import ConfigError

LIVE_SECONDS, LINE_SECONDS = 0.5, 10.0  # between lines of progress: on a terminal, and elsewhere


def main(arguments: Namespace) -> int:
    check_arguments(arguments)
    if arguments.harness is not None:
        return evaluate_harness(arguments)
    arguments.tasks = read_tasks([name for names in arguments.tasks for name in names.split(",")], arguments.set)
    if arguments.results is not None and not arguments.tasks:
        raise ConfigError("--results keeps what tasks find; name them with --tasks")
    report = ProgressReport()
    reports = (report, LIVE_SECONDS if report.on_terminal else LINE_SECONDS)
    if arguments.timeout and not arguments.watch:
        raise ConfigError("--timeout is how long a watch waits for a checkpoint; give it with --watch")
    if arguments.watch:
        check_watch(arguments)
        return watch_run(arguments, *reports, scores_in_words)
    if arguments.examples == "":
        raise ConfigError("--examples names no file")
    if arguments.examples is not None:
        open(arguments.examples, "a").close()  # what is wrong with it is said before anything is scored
    if arguments.other is not None:
        scores, examples = evaluate_pair(arguments, *reports)
    else:
        run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
        check_text_options(arguments, run)
        examples = None if arguments.examples is None else []
        text = (arguments.text, arguments.window, arguments.stride, arguments.field, examples)
        score_text = functools.partial(scoring.evaluate, run, *text)
        tasks = (arguments.tasks, arguments.results, *reports)
        scores = evaluate(run, score_text, bool(given_text_options(arguments)), *tasks)
    if arguments.examples is not None:
        lines = (json.dumps(example, ensure_ascii=False) for example in examples)
        Path(arguments.examples).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(json.dumps(scores) if arguments.json else scores_in_words(arguments.run, scores, arguments))
    return 0


def check_watch(arguments: Namespace) -> None:
    """Raises ConfigError for what a watch can't do."""
    if arguments.examples is not None:
        raise ConfigError("--examples with --watch: each checkpoint would write over the file; name one, RUN@STEP")
    if arguments.other is not None:
        raise ConfigError("--watch follows one run, and two are named; compare them without --watch")
    if arguments.field is not None and arguments.text is None:
        raise ConfigError(f"--field {arguments.field}: it goes with --text FILE, and no text is named")


def scores_in_words(name: str, scores: dict, arguments: Namespace) -> str:
    """The scores of `evaluate --json` as lines for a person."""
    lines = [*text_lines(name, arguments.text, scores), *task_lines(scores["tasks"])]
    if "comparison" in scores:
        lines += comparison_in_words(name, scores["comparison"])
    return "\n".join(lines)


def text_lines(name: str, text: str | None, scores: dict) -> Iterator[str]:
    """What is said of the scores of a text; nothing where there was none."""
    if scores["loss"] is None:
        return
    yield (
        f"{name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity "
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
            f"weights in {scores['quantize']}; as they are: {plain['loss']:.4f} nats a token, perplexity "
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
