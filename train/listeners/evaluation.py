"""Scores every validation text whole at each evaluation step and at the end. A signal ends it between two batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from data.windows import scoring_rows
from model.schedule import row_multiple
from model.transformer import Transformer
from train.evaluate import add_up, metrics, sums_by_batch
from train.events import Evaluated, Event, Paused
from train.run import Run


def no_tasks(model: Transformer) -> Iterator[dict]:
    del model
    yield {}


def evaluation(run: Run, event: Event, score_tasks: Callable[[Transformer], Iterator[dict]] = no_tasks) -> None:
    """`score_tasks` yields more values by name as they grow, one dict at least: what scores tasks is the caller's."""
    e = run.experiment
    if not isinstance(event, Paused) or run.stop or event.step in run.scores:
        return
    if event.step % e.evaluation.every and event.step < e.steps:
        return
    length, multiple = e.data.length, row_multiple(e.execution)
    rows = -(-e.evaluation.rows // multiple) * multiple
    model, scored = run.state.evaluation_model, []
    for text in run.data.validation:
        batches = scoring_rows(text.documents, length, length, rows)
        scored.append(add_up(run.until_stopped(sums_by_batch(model, batches, run.program.batch_sums))))
        if run.stop:  # the same step is evaluated when the run goes on
            return
    scores = metrics(add_up(scored), sum(text.bytes for text in run.data.validation))
    values = {f"eval/{name}": scores[name] for name in ("loss", "perplexity", "bits_per_byte")}
    if len(scored) > 1:
        values |= {f"eval/loss/{t.name}": s.nats / s.tokens for t, s in zip(run.data.validation, scored, strict=True)}
    values |= {f"data/epochs/{name}": epochs for name, epochs in run.data.epochs(event.step).items()}
    *_, of_tasks = run.until_stopped(score_tasks(model))
    if run.stop:
        return
    values |= of_tasks
    run.scores[event.step] = values
    run.emit(Evaluated(event.step, values))
