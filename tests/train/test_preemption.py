"""A signal within a pause: how many batches and dispatches still run after it, and what the next start makes up for."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from data.documents import Documents
from data.windows import ScoredText
from train import in_flight
from train.events import Advanced, Evaluated, Sampled
from train.listeners.evaluation import evaluation
from train.listeners.preemption import Preemption
from train.listeners.samples import Samples
from train.loop import train
from train.program import Program
from train.run import Run

BATCHES, DISPATCHES = 9, 7


@pytest.fixture(scope="module")
def program() -> Program:
    made = tiny.experiment(steps=5, steps_per_dispatch=5)
    return Program(replace(made, evaluation=replace(made.evaluation, rows=8)), jax.devices()[:1])


@pytest.fixture(scope="module")
def run(program) -> Run:
    """At step 0; `go` copies it."""
    made = Run(program, Path(), Data)
    made.state = made.create_state()
    return made


class Data:
    """Random rows, and a validation split of BATCHES batches."""

    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, BATCHES * 8 * tiny.LENGTH + 1).astype(np.int32)
    documents = Documents(tokens, np.array([0, len(tokens)]), np.array([len(tokens)]), ended=False)
    validation = (ScoredText("source", documents, len(tokens)),)

    @staticmethod
    def epochs(steps):
        return {"source": steps / 100}

    @staticmethod
    def rows(step, start, stop):
        return jax.tree.map(lambda x: x[0, 0, start:stop], tiny.rows(1, seed=step))


def write(model, experiment):
    """As long as a decoder's dispatches go."""
    for number in range(1, DISPATCHES + 1):
        yield ["a" * number]


class Told:
    """Every event; at the Advanced of this number the process gets SIGTERM."""

    def __init__(self, at: int = 0):
        self.at, self.events = at, []

    def __call__(self, run, event):
        self.events.append(event)
        if self.count(Advanced) == self.at and isinstance(event, Advanced):
            os.kill(os.getpid(), signal.SIGTERM)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


def go(before: Run, folder: Path, at: int = 0) -> tuple[str, Run, Told]:
    """Goes on from where another run is: how it ended, the run, what was told."""
    told = Told(at)
    run = Run(before.program, folder, Data, [evaluation, Samples(folder / "samples", write), told, Preemption()])
    run.state = jax.tree.map(lambda x: x.copy(), before.state)  # a step is given its state's memory
    run.step, run.scores = before.step, dict(before.scores)
    return train(run), run, told


@pytest.mark.parametrize("at", [4, BATCHES])
def test_a_signal_stops_an_evaluation_between_batches_and_the_next_start_makes_it(run, tmp_path, at):
    reason, stopped, told = go(run, tmp_path, at)
    assert (reason, stopped.step, stopped.scores) == ("SIGTERM", 5, {})
    assert at <= told.count(Advanced) <= at + 2 and not told.count(Evaluated)
    reason, again, told = go(stopped, tmp_path)
    assert reason == "done" and told.count(Evaluated) == told.count(Sampled) == 1
    assert again.scores.keys() == {5}
    assert (tmp_path / "samples" / "5.txt").read_text() == "a" * DISPATCHES + "\n"


@pytest.mark.parametrize("at", [3, DISPATCHES])
def test_a_signal_stops_a_sample_between_dispatches_and_the_next_start_writes_it(run, tmp_path, at):
    reason, stopped, told = go(run, tmp_path, BATCHES + at)
    assert (reason, stopped.scores.keys()) == ("SIGTERM", {5})
    assert at <= told.count(Advanced) - BATCHES <= at + 2
    assert told.count(Evaluated) == 1 and not told.count(Sampled) and not (tmp_path / "samples").exists()
    reason, again, told = go(stopped, tmp_path)
    assert (reason, again.scores) == ("done", stopped.scores)
    assert (told.count(Evaluated), told.count(Sampled), told.count(Advanced)) == (0, 1, DISPATCHES)
    _, _, told = go(again, tmp_path)
    assert not told.count(Sampled) and not told.count(Advanced), "what is there is not made again"


def test_a_process_alone_asks_no_device_whether_to_stop(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Preemption, "signal_per_device", lambda *_: pytest.fail("dispatched"))
    assert go(run, tmp_path)[0] == "done"


@pytest.mark.parametrize("limit", [1, 2])
def test_of_several_processes_all_stop_at_the_batch_at_which_they_hear_of_it(program, monkeypatch, tmp_path, limit):
    """Two processes of one device each, told the same events: the second alone gets the signal, after batch 4."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(in_flight, "limit", lambda: limit)
    processes = [Preemption(), Preemption()]
    shared = lambda *_: np.array([p.received for p in processes], np.int32)  # noqa: E731
    monkeypatch.setattr(Preemption, "signal_per_device", shared)
    runs = [Run(program, tmp_path, Data, [p]) for p in processes]
    works = [run.until_stopped(range(20)) for run in runs]
    done = 0
    for pair in zip(*works, strict=True):  # strict: neither goes further than the other
        done += 1
        assert len(set(pair)) == 1
        if pair[0] == 4:
            processes[1].on_signal(runs[1], signal.SIGTERM)
    assert [run.stop for run in runs] == ["SIGTERM", "SIGTERM"]
    assert done - 4 <= 2, "batch 4 was the fifth"
