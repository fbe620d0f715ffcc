"""THE main loop. It dispatches steps, and tells listeners what happened; everything else is a listener's."""

from __future__ import annotations

import time
from collections import deque

import jax

from train import in_flight
from train.events import Ended, Measured, Paused, Started
from train.run import Run


def train(run: Run) -> str:
    """Trains `run` to its last step, or until `run.stop` is set. Returns "done" or the reason for stopping.

    Metrics are fetched late, so that the device always has work: as many dispatches as may be in flight
    (train/in_flight.py). Where a listener's turn has come the loop pauses: everything in flight is delivered first.
    """
    with jax.set_mesh(run.mesh):
        run.emit(Started(run.step))
        if run.step and run.pauses_at(run.step):
            run.emit(Paused(run.step))  # a signal may have come before this pause was used
        flying, since = deque(), time.perf_counter()
        while run.step < run.experiment.steps and not run.stop:
            count = run.next_count()
            rows = run.feed(run.step, count)  # while the steps before are computed
            since = deliver(run, flying, in_flight.limit() - 1, since)
            if run.stop:
                break
            run.state, metrics = run.program.train_steps(run.state, rows)
            run.step += count
            flying.append((run.step, count, metrics))
            if run.pauses_at(run.step):
                deliver(run, flying, 0, since)
                run.emit(Paused(run.step))
                since = time.perf_counter()
        deliver(run, flying, 0, since)  # what a signal left in flight
        reason = run.stop or "done"
        run.emit(Ended(run.step, reason))
        return reason


def deliver(run: Run, flying: deque, left: int, since: float) -> float:
    """Waits for the metrics of all but the newest `left` dispatches and tells them, a dictionary a step.

    `since`: when the device last finished something. Returns when it finished the last of these.
    """
    while len(flying) > left:
        last, count, metrics = flying.popleft()
        values = in_flight.fetch(metrics)
        now = time.perf_counter()
        each, since = (now - since) / count, now
        steps = [{"step": last - count + 1 + i, "seconds": each} for i in range(count)]
        run.emit(Measured([step | {k: float(v[i]) for k, v in values.items()} for i, step in enumerate(steps)]))
    return since
