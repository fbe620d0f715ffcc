"""Rows that are made ahead in a thread: which they are, where errors surface, and what runs at the same time."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from train.loop import train
from train.prefetch import Prefetch
from train.program import Program
from train.run import Run

STEPS = 5
WAIT = 30.0  # seconds, after which a test fails that else would never end


def row_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rows")]


def no_thread_is_left() -> bool:
    deadline = time.monotonic() + WAIT
    while row_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not row_threads()


DISPATCH = st.tuples(st.integers(0, 5), st.integers(1, 2))


@settings(deadline=None)
@given(st.lists(st.tuples(DISPATCH, st.none() | DISPATCH), max_size=12), st.sets(st.integers(0, 5), max_size=2))
def test_rows_are_those_of_the_steps_asked_for_whatever_was_predicted(takes, bad):
    """And the error of a step is raised where that step is taken, and nowhere else."""

    def make(first: int, count: int) -> list[int]:
        if first in bad:
            raise DataError(f"step {first}")
        return [*range(first, first + count)]

    prefetch = Prefetch(make)
    try:
        for (first, count), following in takes:
            if first in bad:
                with pytest.raises(DataError, match=f"step {first}"):
                    prefetch.take((first, count), following)
            else:
                assert prefetch.take((first, count), following) == [*range(first, first + count)]
    finally:
        prefetch.close()


class Data:
    """Random rows. `began[step]` is set when they are asked for; `ready` is called before they are given."""

    def __init__(self, ready=lambda step: None):
        self.began, self.ready = [threading.Event() for _ in range(STEPS)], ready

    def rows(self, step, start, stop):
        self.began[step].set()
        self.ready(step)
        return jax.tree.map(lambda x: x[0, 0, start:stop], tiny.rows(1, seed=step))


@pytest.fixture(scope="module")
def program() -> Program:
    made = tiny.experiment(layers=1, steps=STEPS, steps_per_dispatch=1)
    rare = {"evaluation": replace(made.evaluation, every=100), "checkpoints": replace(made.checkpoints, every=100)}
    return Program(replace(made, **rare), jax.devices()[:1])


def opened(program: Program, data: Data) -> Run:
    run = Run(program, Path(), data)
    run.state = run.create_state()
    return run


def test_an_error_of_the_data_ends_the_run_at_its_step_and_leaves_no_thread(program):
    def ready(step: int) -> None:
        if step == 3:
            raise DataError("a.jsonl: the disk is gone")

    run = opened(program, Data(ready))
    with pytest.raises(DataError, match="the disk is gone"):
        try:
            train(run)
        finally:
            run.close()
    assert run.step == 3 and no_thread_is_left()


def test_the_next_rows_are_made_while_a_step_runs(program, monkeypatch):
    """Each step ends only after the next rows were asked for, and these are given only once that step has begun."""
    steps = [threading.Event() for _ in range(STEPS)]

    def ready(step: int) -> None:
        assert not step or steps[step - 1].wait(WAIT), "they are made before the step begins"

    data = Data(ready)
    run = opened(program, data)
    train_steps = program.train_steps

    def watched(state, rows):
        steps[run.step].set()
        assert run.step + 1 == STEPS or data.began[run.step + 1].wait(WAIT), "they are made after the step"
        return train_steps(state, rows)

    monkeypatch.setattr(program, "train_steps", watched)
    try:
        assert train(run) == "done" and run.step == STEPS
    finally:
        run.close()
    assert no_thread_is_left()


def test_rows_that_are_being_made_when_a_run_ends_are_dropped():
    """As after a signal: nothing waits for them."""
    may_end = threading.Event()
    prefetch = Prefetch(lambda first, count: first == 0 or may_end.wait(WAIT))
    prefetch.take((0, 1), (1, 1))
    assert len(row_threads()) == 1
    prefetch.close()
    may_end.set()
    assert no_thread_is_left()
