"""How long training waits for its rows. launch/commands/bench.py says it beside the speed of the pipeline."""

from __future__ import annotations

import statistics

from launch.bench import training
from train.config import Experiment
from train.events import Event, Measured
from train.run import Run


def data_wait(experiment: Experiment) -> float:
    """The share of the time in which a config's own training waits for rows, once it is under way."""
    shares: list[float] = []

    def listen(run: Run, event: Event) -> None:
        if isinstance(event, Measured):
            shares.extend(step["data_wait"] for step in event.steps)

    # It has trained for a while when it is made.
    run_once = training.task(experiment, experiment.batch_size, training.SECONDS, [listen])
    shares.clear()
    run_once()
    return round(statistics.fmean(shares), 5)
