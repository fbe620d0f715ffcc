"""`skald evaluate RUN --watch`: scores every checkpoint of a run as it is published, until the run is over."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from data.config import Source
from data.sources import source as sources
from launch.commands.text_options import given_text_options
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.evaluation import evaluate
from launch.inference.evaluations_file import EvaluationsFile
from launch.inference.scoring import TextReader, evaluate_texts, say, scoring_windows
from launch.inference.tasks.examples import read_examples
from launch.inference.tasks.results import examples_digest
from launch.inference.watch import NoNewCheckpoint, Watch
from train.fields import ConfigError

STOPPED = 75  # exit status: stopped by a signal; what was scored is written down
EVALUATED = ("text", "field", "window", "stride", "weights", "quantize")  # arguments that say what is evaluated


class StopRequested(KeyboardInterrupt):
    """A signal asks this process to end. Its argument is the signal's name."""


def watch_run(
    arguments: Namespace,
    report: Callable[[str], None],
    seconds: float,
    in_words: Callable[[str, dict, Namespace], str],
) -> int:
    """Watches a run, prints each checkpoint's scores (with --json a list of all at the end), and returns the exit
    status. `report` is given the progress of tasks, every so many `seconds`. Raises ConfigError, and what an evaluation
    raises."""
    if "@" in Path(arguments.run).name:
        raise ConfigError(f"{arguments.run}: --watch follows a whole run; name its folder without @")
    run = Path(arguments.run)
    if run.is_file():
        raise ConfigError(f"{run}: a file; --watch follows a run's folder")
    file = EvaluationsFile(run / "evaluations.jsonl", what_is_evaluated(arguments))
    texts = TextReader(arguments.text, arguments.field)

    def load(name: str) -> LoadedCheckpoint:
        return LoadedCheckpoint(name, arguments.weights, quantize=arguments.quantize)

    def score(checkpoint: LoadedCheckpoint) -> dict:
        def score_text() -> dict:
            windows = scoring_windows(checkpoint, arguments.window, arguments.stride)
            return evaluate_texts(checkpoint, texts(checkpoint), *windows).metrics

        tasks = (arguments.tasks, arguments.results, report, seconds)
        return evaluate(checkpoint, score_text, bool(given_text_options(arguments)), *tasks)

    if before := file.by_step():
        say(f"{file.path}: steps {', '.join(str(line['step']) for line in before)} are scored already")
    watch, status = Watch(run, file, load, score, say, arguments.timeout), 0
    try:
        with stop_on_signals():
            for scores in watch:
                lines = in_words(arguments.run, scores, arguments)
                print(lines, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    except StopRequested as stop:
        say(f"stopped by {stop}; what is scored is in {file.path}, and the same command goes on from there")
        status = STOPPED
    except NoNewCheckpoint as error:
        say(f"skald: {error}")
        status = 1
    if arguments.json:
        print(json.dumps(file.by_step()))
    if watch.failed and not status:
        say(f"skald: not scored: {', '.join(f'{run}@{step}' for step in watch.failed)}")
        status = 1
    return status


def what_is_evaluated(arguments: Namespace) -> dict:
    """What scores depend on besides the checkpoint: the arguments, the content of a text, and what tasks ask. Raises
    DataError where one of them can't be read."""
    content = sources.fingerprint(Source(arguments.text)) if arguments.text is not None else None
    tasks = {task.name: examples_digest(task, read_examples(task)) for task in arguments.tasks}
    return {name: getattr(arguments, name) for name in EVALUATED} | {"content": content, "tasks": tasks}


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raises StopRequested once this process receives SIGINT or SIGTERM."""

    def stop(number: int, _) -> None:
        raise StopRequested(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
