"""Scores the whole validation split at every evaluation step and at the end. A signal ends it between two batches."""

from __future__ import annotations

from data.windows import scoring_rows
from model.schedule import row_multiple
from train.evaluate import add_up, metrics, sums_by_batch
from train.events import Evaluated, Event, Paused
from train.run import Run


def evaluation(run: Run, event: Event) -> None:
    e = run.experiment
    if not isinstance(event, Paused) or run.stop or event.step in run.scores:
        return
    if event.step % e.evaluation.every and event.step < e.steps:
        return
    documents, length = run.data.validation.documents, e.data.length
    multiple = row_multiple(e.execution)
    rows = -(-e.evaluation.rows // multiple) * multiple
    batches = scoring_rows(documents, length, length, rows)
    sums = list(run.until_stopped(sums_by_batch(run.state.evaluation_model, batches)))
    if run.stop:  # the same step is evaluated when the run goes on
        return
    scores = metrics(add_up(sums), documents.bytes)
    values = {f"eval/{name}": scores[name] for name in ("loss", "perplexity", "bits_per_byte")}
    run.scores[event.step] = values
    run.emit(Evaluated(event.step, values))
