"""Scores the whole validation split at every evaluation step and at the end. A signal ends it between two batches."""

from __future__ import annotations

from data.windows import score_rows
from model.schedule import rows_together
from train.evaluate import scores, sums, total
from train.events import Evaluated, Event, Paused
from train.run import Run


def evaluation(run: Run, event: Event) -> None:
    e = run.experiment
    if not isinstance(event, Paused) or run.stop or event.step in run.scores:
        return
    if event.step % e.evaluation.every and event.step < e.steps:
        return
    documents, length = run.data.validation.documents, e.data.length
    least = rows_together(e.execution)
    rows = -(-e.evaluation.rows // least) * least
    batches = score_rows(documents, length, length, rows)
    each = list(run.until_stopped(sums(run.state.best, batches)))
    if run.stop:  # the same step is evaluated when the run goes on
        return
    found = scores(total(each), documents.bytes)
    values = {f"eval/{name}": found[name] for name in ("loss", "perplexity", "bits_per_byte")}
    run.scores[event.step] = values
    run.tell(Evaluated(event.step, values))
