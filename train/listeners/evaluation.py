"""Scores every validation text whole at each evaluation step and at the end. A signal ends it between two batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from model.schedule import row_multiple
from model.sharding import shard_count
from model.transformer import Transformer
from train.evaluate import sums_by_batch
from train.events import Evaluated, Event, Paused
from train.run import Run


def evaluation(run: Run, event: Event, scorers: Sequence[Callable[[Transformer], Iterator[dict]]] = ()) -> None:
    """`scorers`: each yields more values by name as they grow, one dict at least: what scores tasks is the caller's."""
    e = run.experiment
    if not isinstance(event, Paused) or run.stop or event.step in run.scores:
        return
    if event.step % e.evaluation.every and event.step < e.steps:
        return
    objective, state, texts = run.program.objective, run.state, run.data.validation
    multiple = math.lcm(row_multiple(e.execution), e.data.rows_together * shard_count("batch"))
    rows = -(-e.evaluation.rows // multiple) * multiple
    model, scored = state.evaluation_model, []
    for text in texts:
        batches = objective.batches(text.documents, e.data.length, rows)
        sums = sums_by_batch(model, batches, lambda model, batch: run.program.batch_sums(model, state.frozen, batch))
        scored.append(list(run.until_stopped(sums)))
        if run.stop:  # the same step is evaluated when the run goes on
            return
    scores = objective.scores(itertools.chain(*scored), sum(text.bytes for text in texts))
    values = {f"eval/{name}": value for name, value in scores.items()}
    if len(scored) > 1:
        by_text = (objective.scores(sums, text.bytes)["loss"] for sums, text in zip(scored, texts, strict=True))
        values |= {f"eval/loss/{text.name}": loss for text, loss in zip(texts, by_text, strict=True)}
    values |= {f"data/epochs/{name}": epochs for name, epochs in run.data.epochs(event.step).items()}
    for scorer in scorers:
        *_, found = run.until_stopped(scorer(model))
        if run.stop:
            return
        values |= found
    run.scores[event.step] = values
    run.emit(Evaluated(event.step, values))
