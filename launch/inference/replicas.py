"""Texts of many requests through several engines, each on a device of its own that holds all weights.

launch/inference/tasks/generation.py calls it. An engine's pages do not spread over devices that split its rows.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import jax

from launch.inference.request import TextRequest
from launch.inference.text_engine import SLOTS, TextAnswer, TextEngine
from model.transformer import Transformer

WAIT = 0.5  # seconds for an answer, before `after_step` is called again


class Stopped(Exception):
    """Nobody waits for a worker's answers any more."""


class Worker(threading.Thread):
    """Writes the answers of some requests with an engine, and puts them in `answers`, or the error that ended it."""

    def __init__(self, engine: TextEngine, requests: Sequence[TextRequest]):
        super().__init__(daemon=True)
        self.engine, self.requests = engine, requests
        self.answers: queue.SimpleQueue[TextAnswer | BaseException] = queue.SimpleQueue()
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            for answer in self.engine.answers(self.requests, self.check):
                self.answers.put(answer)
        except Stopped:
            pass
        except BaseException as error:  # whoever waits for the next answer raises it
            self.answers.put(error)

    def check(self) -> None:
        if self.stopped.is_set():
            raise Stopped

    def next(self, after_step: Callable[[], None]) -> TextAnswer:
        while True:
            after_step()
            try:
                answer = self.answers.get(timeout=WAIT)
            except queue.Empty:
                continue
            if isinstance(answer, BaseException):
                raise answer
            return answer


class Replicas:
    """Engines on the devices, made by `make` of the model on each once there are requests enough for it."""

    def __init__(self, model: Transformer, make: Callable[[Transformer], TextEngine], devices: Sequence[jax.Device]):
        self.model, self.make, self.devices = model, make, devices
        self.engines: list[TextEngine] = []

    def answers(self, requests: Sequence[TextRequest], after_step: Callable[[], None]) -> Iterator[TextAnswer]:
        """The answers of all requests in their order, as TextEngine.answers, which says what it raises."""
        engines = self.engines_for(len(requests))
        if len(engines) == 1:
            yield from engines[0].answers(requests, after_step)
            return
        workers = [Worker(engine, requests[index :: len(engines)]) for index, engine in enumerate(engines)]
        for worker in workers:
            worker.start()
        try:
            for index in range(len(requests)):
                yield workers[index % len(workers)].next(after_step)
        finally:
            for worker in workers:
                worker.stopped.set()
            for worker in workers:
                worker.join()

    def engines_for(self, count: int) -> list[TextEngine]:
        """As many engines as fill their slots with so many texts: at least one, at most one a device."""
        wanted = min(len(self.devices), max(1, math.ceil(count / SLOTS)))
        for device in self.devices[len(self.engines) : wanted]:
            self.engines.append(self.make(jax.device_put(self.model, device)))
        return self.engines[:wanted]
