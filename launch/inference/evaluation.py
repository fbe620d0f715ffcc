"""All that `skald evaluate` and run.evaluate() say of a checkpoint: its scores of a text, and those of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import DataError
from data.store.progress import SECONDS
from launch.inference import scoring
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import say
from launch.inference.tasks.evaluate import evaluate_tasks, prepare_tasks
from launch.inference.tasks.task import Task

TEXT_SCORES = ("loss", "perplexity", "bits_per_byte", "tokens", "bytes", "window", "stride")


def evaluate(
    run: LoadedCheckpoint,
    text: str | Path | None = None,
    window: int | None = None,
    stride: int | None = None,
    field: str | None = None,
    examples: list[dict] | None = None,
    tasks: Sequence[Task] = (),
    results: str | Path | None = None,
    report: Callable[[str], None] = say,
    seconds: float = SECONDS,
) -> dict:
    """Scores a checkpoint: over a text as scoring.evaluate does, which says of the first arguments, and on `tasks`.

    Where there are tasks and no text to score, as for an imported checkpoint, the scores of text are None. `results`,
    `report`, `seconds`: as evaluate_tasks has them. Raises what both raise; all tasks are checked first.
    """

    def score_text() -> dict:
        return scoring.evaluate(run, text, window, stride, field, examples)

    return evaluate_with_tasks(run, score_text, text, tasks, results, report, seconds)


def evaluate_with_tasks(
    run: LoadedCheckpoint,
    score_text: Callable[[], dict],
    text: str | Path | None,
    tasks: Sequence[Task],
    results: str | Path | None,
    report: Callable[[str], None],
    seconds: float,
) -> dict:
    """As `evaluate`, with scores of text that `score_text` makes."""
    prepared = prepare_tasks(run, tasks)
    if not tasks:
        return score_text()
    scores = {"step": run.step, **dict.fromkeys(TEXT_SCORES)}
    if run.config is not None or text is not None:
        try:
            scores = score_text()
        except DataError as error:
            if text is not None:
                raise
            report(f"the scores of the validation text are left out: {error}")
    return scores | {"tasks": evaluate_tasks(run, prepared, results, report, seconds)}
