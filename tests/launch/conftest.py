"""Fixtures that run the real `skald` in processes of its own, and one tiny run that most tests only read."""

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
from zygote import ForkedProcess, Zygote

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

RUN_COMMANDS = """
import contextlib, io, json, sys
from launch.cli import main
results = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        results.append((main(command), out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


class Skald:
    """Runs commands: `skald("train", …)` waits and returns (status, out, err); `start` does not wait.

    Where `zygote` is None every process imports everything anew, as for a user.
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

    def with_environment(self, **environment: str) -> Skald:
        """A copy with other variables. Those that are read while Python or JAX is imported need `fresh`."""
        other = copy.copy(self)
        other.environment = {**self.environment, **environment}
        return other

    def start(self, *arguments: str) -> subprocess.Popen | ForkedProcess:
        if self.zygote:
            return self.zygote.start([str(argument) for argument in arguments], self.environment, self.folder)
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

    def run_many(self, commands: list[list]) -> list[tuple[int, str, str]]:
        """Runs commands one after another in one process: for those that end before they begin to work."""
        arguments_json = json.dumps([[str(argument) for argument in command] for command in commands])
        process = subprocess.run(
            [sys.executable, "-c", RUN_COMMANDS, arguments_json], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return [tuple(result) for result in json.loads(process.stdout)]

    def json(self, *arguments: str):
        status, out, err = self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)


@pytest.fixture(scope="session")
def skald(tmp_path_factory, shared_folder) -> Iterator[Skald]:
    runner = Skald(tmp_path_factory.mktemp("skald"), shared_folder / "cache")
    if sys.platform == "linux":
        runner.zygote = Zygote(ROOT, runner.environment)
    yield runner
    if runner.zygote:
        runner.zygote.close()


@pytest.fixture(scope="session")
def fresh(skald) -> Skald:
    """Runs commands in new Python processes, as a user does: once for every command."""
    runner = skald.with_environment()
    runner.zygote = None
    return runner


@pytest.fixture(scope="session")
def trained_run(skald, shared_folder) -> Path:
    """A finished run of the tiny config, made by the first worker that needs it. To change it, take `run_copy`."""
    folder = shared_folder / "trained"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = shared_folder / "unfinished"
            status, _, err = skald("train", skald.config, "--run-dir", unfinished)
            assert status == 0, err
            unfinished.rename(folder)
    return folder


@pytest.fixture
def run_copy(trained_run, tmp_path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def mount_disk(tmp_path):
    """A function that mounts a small file system, or changes how it is mounted: `mount_disk("size=1m")`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str):
        options = f"remount,{options}" if folder.is_mount() else options
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if result.returncode:
            pytest.skip("mounting a small file system needs root")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
