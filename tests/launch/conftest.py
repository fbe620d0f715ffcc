"""A real `skald` in processes of its own, and one tiny run that most tests only read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = '''"""A config of a user's own: 30 k parameters on a tenth of Shakespeare."""

from dataclasses import replace

from configs import shakespeare
from data.config import Span
from model.config import MLP, Attention, Block, Model, Rope, Stack
from train.config import Checkpoints, Evaluation, Experiment


def default() -> Experiment:
    base = shakespeare.default()
    block = Block(Attention(4, 2, 8, rope=Rope()), MLP(64), token_shift=0.5)
    return replace(
        base,
        name="tiny",
        model=Model(vocab_size=65, width=32, context=32, layers=(Stack((block,), 2),)),
        data=replace(base.data, length=32, train=Span(0, 0.09), validation=Span(0.09, 0.1)),
        steps=40,
        batch_size=8,
        evaluation=Evaluation(every=20, rows=64, sample_tokens=40),
        checkpoints=Checkpoints(every=20),
    )
'''

MANY = """
import contextlib, io, json, sys
from launch.cli import main
answers = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        answers.append((main(command), out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


class Skald:
    """Runs commands: `skald("train", …)` waits and returns (status, out, err); `start` does not wait."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = str(folder / "tiny.py")
        Path(self.config).write_text(CONFIG)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SKALD_CACHE": str(folder / "cache"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def many(self, commands: list[list]) -> list[tuple[int, str, str]]:
        """Several commands one after another in one process: for those that end before they begin to work."""
        given = json.dumps([[str(word) for word in command] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", MANY, given], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [tuple(answer) for answer in json.loads(done.stdout)]

    def json(self, *arguments: str):
        status, out, err = self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)


@pytest.fixture(scope="session")
def skald(tmp_path_factory) -> Skald:
    return Skald(tmp_path_factory.mktemp("skald"))


@pytest.fixture(scope="session")
def trained(skald) -> Path:
    """A finished run of the tiny config. Read it; copy it to change it."""
    folder = skald.folder / "trained"
    status, _, err = skald("train", skald.config, "--run-dir", folder)
    assert status == 0, err
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))
