"""A real `skald` in processes of its own, and one tiny run that most tests only read."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from zygote import Forked, Zygote

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
    """Runs commands: `skald("train", …)` waits and returns (status, out, err); `start` does not wait.

    `zygote` None: every process imports everything anew, as for a user.
    """

    zygote: Zygote | None = None

    def __init__(self, folder: Path, cache: Path):
        self.folder = folder
        self.config = str(folder / "tiny.py")
        Path(self.config).write_text(CONFIG)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SKALD_CACHE": str(cache),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def using(self, **environment: str) -> Skald:
        """The same with other variables. Those that are read while Python or JAX is imported want `fresh`."""
        other = copy.copy(self)
        other.environment = {**self.environment, **environment}
        return other

    def start(self, *arguments: str) -> subprocess.Popen | Forked:
        if self.zygote:
            return self.zygote.start([str(word) for word in arguments], self.environment, self.folder)
        command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
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
def skald(tmp_path_factory, shared) -> Iterator[Skald]:
    made = Skald(tmp_path_factory.mktemp("skald"), shared / "cache")
    if sys.platform == "linux":
        made.zygote = Zygote(ROOT, made.environment)
    yield made
    if made.zygote:
        made.zygote.close()


@pytest.fixture(scope="session")
def fresh(skald) -> Skald:
    """In processes that begin as a user's do: once for every command."""
    made = skald.using()
    made.zygote = None
    return made


@pytest.fixture(scope="session")
def trained(skald, shared) -> Path:
    """A finished run of the tiny config, made by the first worker that wants it. Read it; copy it to change it."""
    folder = shared / "trained"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = shared / "unfinished"
            status, _, err = skald("train", skald.config, "--run-dir", made)
            assert status == 0, err
            made.rename(folder)
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))
