"""Ctrl-C and SIGTERM: the loop ends after the dispatches in flight, evaluation and samples after theirs, and the
checkpoints listener saves.

Sent to one of several processes, it ends all of them at the same step. A second Ctrl-C stops at once.
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
    """`asked` is the signal that this process received, or 0.

    What all received is added up on the devices, queued behind what is in flight like a step: all processes tell
    Measured and Advanced at the same steps and batches, so all see the same answer at the same one. It is read one
    event late where programs may queue, so that nobody waits for it.
    """

    def __init__(self):
        self.before: dict[int, object] = {}
        self.asked = 0
        self.answers: list[jax.Array] = []
        self.highest = jax.jit(jnp.max)

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started():
                for number in (signal.SIGINT, signal.SIGTERM):
                    self.before[number] = signal.signal(number, lambda number, _: self.on_signal(run, number))
            case Measured() | Advanced() if jax.process_count() > 1:
                self.answers.append(self.highest(self.signal_on_devices(run)))
                if len(self.answers) >= in_flight.limit() and (number := int(in_flight.fetch(self.answers.pop(0)))):
                    run.stop = signal.Signals(number).name
            case Ended():
                for number, handler in self.before.items():
                    signal.signal(number, handler)

    def on_signal(self, run: Run, number: int) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        if jax.process_count() == 1:
            run.stop = signal.Signals(number).name

    def signal_on_devices(self, run: Run) -> jax.Array:
        """int32 [devices]: on each the signal that its process received."""
        lies = NamedSharding(run.mesh, PartitionSpec(run.mesh.axis_names))
        asked = np.full(1, self.asked, np.int32)
        return jax.make_array_from_callback((run.mesh.size,), lies, lambda place: asked)
