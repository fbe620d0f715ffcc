"""THE main loop: it dispatches steps and emits events; listeners do everything else. launch/ calls it."""

from __future__ import annotations

import time
from collections import deque

import jax

from train import in_flight
from train.events import Ended, Measured, Paused, Started
from train.run import Run


def train(run: Run) -> str:
    """Trains `run` to its last step, or until `run.stop` is set. Returns "done" or the reason for stopping.

    Metrics are fetched late, so that the devices always have work: as many dispatches as train/in_flight.py allows are
    in flight. Where listeners evaluate or save the loop pauses, and everything in flight is delivered first.
    """
    with jax.set_mesh(run.mesh):
        run.emit(Started(run.step))
        if run.step and run.pauses_at(run.step):
            run.emit(Paused(run.step))  # a signal may have stopped the run before listeners used this pause
        pending, last_finished = deque(), time.perf_counter()
        while run.step < run.experiment.steps and not run.stop:
            count = run.next_count()
            asked = time.perf_counter()
            rows = run.feed(count)  # while earlier steps are computed
            waited = time.perf_counter() - asked
            last_finished = deliver(run, pending, in_flight.limit() - 1, last_finished)
            if run.stop:
                break
            run.state, metrics = run.program.train_steps(run.state, rows)
            run.step += count
            pending.append((run.step, count, metrics, waited))
            if run.pauses_at(run.step):
                deliver(run, pending, 0, last_finished)
                run.emit(Paused(run.step))
                last_finished = time.perf_counter()
        deliver(run, pending, 0, last_finished)  # what a signal left in flight
        reason = run.stop or "done"
        run.emit(Ended(run.step, reason))
        return reason


def deliver(run: Run, pending: deque, remaining: int, last_finished: float) -> float:
    """Emits metrics, a dictionary a step, of the oldest pending dispatches, until only `remaining` are pending.

    `last_finished`: when the devices last finished something (time.perf_counter). Returns when they finished these.
    """
    while len(pending) > remaining:
        last_step, count, metrics, waited = pending.popleft()
        values = in_flight.fetch(metrics)
        now = time.perf_counter()
        seconds, last_finished = (now - last_finished) / count, now
        timed = {"seconds": seconds, "data_wait": min(1.0, waited / count / seconds)}
        steps = [{"step": last_step - count + 1 + i, **timed} for i in range(count)]
        run.emit(Measured([step | {k: float(v[i]) for k, v in values.items()} for i, step in enumerate(steps)]))
    return last_finished
