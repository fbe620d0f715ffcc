"""THE main loop. It dispatches steps, and tells listeners what happened; everything else is a listener's."""

from __future__ import annotations

import time

import jax

from train.events import Ended, Measured, Paused, Started
from train.run import Run


def train(run: Run) -> str:
    """Trains `run` to its last step, or until `run.stop` is set. Returns "done" or the reason for stopping.

    Metrics are fetched one dispatch late, so that the device always has work. Where a listener's turn has come the
    loop pauses: everything in flight is delivered first.
    """
    with jax.set_mesh(run.mesh):
        run.tell(Started(run.step))
        if run.step and run.pauses_at(run.step):
            run.tell(Paused(run.step))  # a signal may have come before this pause was used
        flying, since = None, time.perf_counter()
        while run.step < run.experiment.steps and not run.stop:
            count = run.next_count()
            rows = run.feed(run.step, count)
            run.state, metrics = run.train_steps(run.state, rows)
            run.step += count
            flying, since = deliver(run, flying, since), time.perf_counter() if flying else since
            flying = (run.step, count, metrics)
            if run.pauses_at(run.step):
                deliver(run, flying, since)
                run.tell(Paused(run.step))
                flying, since = None, time.perf_counter()
        if flying:
            deliver(run, flying, since)
            run.tell(Paused(run.step))
        reason = run.stop or "done"
        run.tell(Ended(run.step, reason))
        return reason


def deliver(run: Run, flying, since: float) -> None:
    """Waits for a dispatch's metrics and tells them, a dictionary a step."""
    if flying is None:
        return
    last, count, metrics = flying
    values = jax.device_get(metrics)
    seconds = time.perf_counter() - since
    run.tell(
        Measured(
            [
                {
                    "step": last - count + 1 + i,
                    "seconds": seconds / count,
                    **{k: float(v[i]) for k, v in values.items()},
                }
                for i in range(count)
            ]
        )
    )
