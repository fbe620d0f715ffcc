"""All that `skald evaluate` and run.evaluate() say of a checkpoint: its scores of a text, and those of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import DataError
from data.store.progress import SECONDS
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import say
from launch.inference.tasks.evaluate import evaluate_tasks, prepare_tasks
from launch.inference.tasks.task import Task

TEXT_SCORES = ("loss", "perplexity", "bits_per_byte", "tokens", "bytes", "window", "stride")


def evaluate(
    run: LoadedCheckpoint,
    score_text: Callable[[], dict],
    has_text: bool,
    tasks: Sequence[Task] = (),
    results: str | Path | None = None,
    report: Callable[[str], None] = say,
    seconds: float = SECONDS,
) -> dict:
    """What `score_text` says of a checkpoint, with `tasks`. `has_text`: whether a text is asked for, so that what is
    wrong with it is raised; else, where there are tasks and no validation text to score, as for an imported checkpoint,
    its scores are None.

    `results`, `report`, `seconds`: as evaluate_tasks has them. Raises what both raise; all tasks are checked first.
    """
    prepared = prepare_tasks(run, tasks)
    if not tasks:
        return score_text()
    scores = {"step": run.step, **dict.fromkeys(TEXT_SCORES)}
    if run.config is not None or has_text:
        try:
            scores = score_text()
        except DataError as error:
            if has_text:
                raise
            report(f"the scores of the validation text are left out: {error}")
    return scores | {"tasks": evaluate_tasks(run, prepared, results, report, seconds)}
