"""Stops a run on Ctrl-C and SIGTERM: the loop after the dispatches in flight, evaluation and samples after theirs. Then
the checkpoints listener saves.

Sent to one of several processes, a signal stops all of them at the same step. A second Ctrl-C stops at once.
"""

from __future__ import annotations

import signal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from train import in_flight
from train.events import Advanced, Ended, Event, Measured, Started
from train.run import Run


class Preemption:
    """Sets `run.stop` in every process of the run once one of them received a signal.

    `received` is the number of this process's signal, or 0. Where a run has several processes, its devices compute the
    highest of their signals at every Measured and Advanced, queued like a step behind what is in flight. All processes
    emit these events at the same steps and batches, so all see the same result at the same one. Where programs may
    queue, the result is read one event late, so that nobody waits for it.
    """

    def __init__(self):
        self.old_handlers: dict[int, object] = {}
        self.received = 0
        self.pending: list[jax.Array] = []
        self.max_signal = jax.jit(jnp.max)

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started():
                for number in (signal.SIGINT, signal.SIGTERM):
                    self.old_handlers[number] = signal.signal(number, lambda number, _: self.on_signal(run, number))
            case Measured() | Advanced() if jax.process_count() > 1:
                self.pending.append(self.max_signal(self.signal_per_device(run)))
                if len(self.pending) >= in_flight.limit() and (number := int(in_flight.fetch(self.pending.pop(0)))):
                    run.stop = signal.Signals(number).name
            case Ended():
                for number, handler in self.old_handlers.items():
                    signal.signal(number, handler)

    def on_signal(self, run: Run, number: int) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if jax.process_count() == 1:
            run.stop = signal.Signals(number).name

    def signal_per_device(self, run: Run) -> jax.Array:
        """int32 [devices]: the number of the signal that each device's process received, or 0."""
        sharding = NamedSharding(run.mesh, PartitionSpec(run.mesh.axis_names))
        received = np.full(1, self.received, np.int32)
        return jax.make_array_from_callback((run.mesh.size,), sharding, lambda index: received)
