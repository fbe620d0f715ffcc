"""Ctrl-C and SIGTERM: the loop ends after the dispatch in flight, and the checkpoints listener saves.

A second Ctrl-C stops at once.
"""

from __future__ import annotations

import signal

from train.events import Ended, Event, Started
from train.run import Run


class Preemption:
    def __init__(self):
        self.before: dict[int, object] = {}

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started():

                def stop(number, frame):
                    del frame
                    if run.stop and number == signal.SIGINT:
                        raise KeyboardInterrupt
                    run.stop = signal.Signals(number).name

                for number in (signal.SIGINT, signal.SIGTERM):
                    self.before[number] = signal.signal(number, stop)
            case Ended():
                for number, handler in self.before.items():
                    signal.signal(number, handler)
