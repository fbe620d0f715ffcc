"""How much is dispatched ahead on several CPU devices of one process, where XLA would abort it: by counting, and by a
long evaluation in a process of its own."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from data.documents import Documents
from data.windows import scoring_rows
from model.sharding import make_mesh
from train import evaluate, in_flight, state
from train.loop import train
from train.program import Program
from train.run import Run

ROOT = Path(__file__).parents[2]


class Watched:
    """A jitted function that notes how many of its earlier results were not there yet when it was called again."""

    def __init__(self, function):
        self.function, self.results, self.most = function, [], 0

    def __call__(self, *given):
        unfinished = sum(not all(x.is_ready() for x in jax.tree.leaves(result)) for result in self.results)
        self.most = max(self.most, unfinished)
        made = self.function(*given)
        self.results.append(made[-1] if isinstance(made, tuple) else made)
        return made


def batches(count: int):
    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, count * 8 * 16 + 1).astype(np.int32)
    return scoring_rows(Documents(tokens, np.array([0, len(tokens)]), np.array([len(tokens)]), ended=False), 16, 16, 8)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs several CPU devices")
def test_no_batch_of_an_evaluation_waits_behind_another(monkeypatch):
    made = tiny.experiment()
    with jax.set_mesh(make_mesh({"data": 2}, jax.devices()[:2])):
        model = jax.jit(lambda: state.create_state(made).model)()
        watched = Watched(evaluate.batch_sums)
        monkeypatch.setattr(evaluate, "batch_sums", watched)
        tokens = evaluate.add_up(evaluate.sums_by_batch(model, batches(20))).tokens
    assert tokens == 20 * 8 * 16 and len(watched.results) == 20
    assert watched.most == in_flight.limit() - 1 == 0


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs several CPU devices")
def test_no_step_of_the_loop_waits_behind_another():
    made = tiny.experiment(steps=12, steps_per_dispatch=1)
    rare = {"evaluation": replace(made.evaluation, every=100), "checkpoints": replace(made.checkpoints, every=100)}
    program = Program(replace(made, **rare), jax.devices()[:2])

    class Rows:
        @staticmethod
        def rows(step, start, stop):
            return jax.tree.map(lambda x: x[0, 0, start:stop], tiny.rows(1, seed=step))

    run = Run(program, Path(), Rows)
    run.state = run.create_state()
    watched = program.train_steps = Watched(program.train_steps)
    assert train(run) == "done" and run.step == len(watched.results) == 12
    assert watched.most == in_flight.limit() - 1 == 0


# The devices meet in every batch. What is printed: the loss by one device, and by two.
PROGRAM = """
import jax, numpy as np
from dataclasses import replace
from configs import shakespeare
from data.documents import Documents
from data.windows import scoring_rows
from model.config import Execution
from model.sharding import make_mesh
from train import state
from train.evaluate import add_up, sums_by_batch

e = replace(shakespeare.quick(), execution=Execution())
tokens = np.random.default_rng(0).integers(0, 65, 1200 * 8 * 16 + 1).astype(np.int32)
for count in (1, 2):
    with jax.set_mesh(make_mesh({"data": count}, jax.devices()[:count])):
        model = jax.jit(lambda: state.create_state(e).model)()
        documents = Documents(tokens, np.array([0, len(tokens)]), np.array([len(tokens)]), ended=False)
        print(*add_up(sums_by_batch(model, scoring_rows(documents, 16, 16, 8))))
"""


@pytest.mark.slow(40)
@pytest.mark.timeout(200)
def test_a_long_evaluation_on_two_devices_ends_with_one_devices_loss():
    """1,200 batches: all of them queued at once it aborted in 3 of 3 runs (jax 0.10.2)."""
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_collective_call_terminate_timeout_seconds=20"
    flags += " --xla_backend_optimization_level=0"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (tuple(map(float, line.split())) for line in done.stdout.splitlines())
    assert one[1] == two[1] == 1200 * 8 * 16
    assert two[0] / two[1] == pytest.approx(one[0] / one[1], abs=1e-5)
