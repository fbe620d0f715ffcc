"""One training run: its folder, data, mesh, state and listeners. launch/train.py opens it, train/loop.py drives it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec

from data.pipeline import Pipeline
from model.sharding import make_mesh
from train import fields, state, step
from train.config import Experiment
from train.events import Event
from train.feed import training_rows

IDENTITY = ("model", "data", "optimizer", "seed", "batch_size", "microbatches")


class RunError(ValueError):
    """A run that can't start or go on: one line that says why and what would work. Exit status 1."""


class Run:
    """What the loop and the listeners share. `stop` names the signal once one was received.

    `tuned` may rewrite the step for the machine before it is compiled: the numbers stay the same.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        data: Pipeline,
        listeners: Sequence[Callable],
        tuned: Callable = lambda steps: steps,
    ):
        self.experiment, self.folder, self.data, self.listeners = experiment, folder, data, listeners
        self.mesh = make_mesh(vars(experiment.mesh))
        self.step, self.stop = 0, ""
        self.state: state.State | None = None
        self.scores: dict[int, dict] = {}  # step -> what evaluation found there
        self.train_steps = jax.jit(tuned(functools.partial(step.train_steps, experiment)), donate_argnums=0)

    def abstract_state(self) -> state.State:
        """Shapes, types and shardings of the state on this mesh; nothing is computed."""
        with jax.set_mesh(self.mesh):
            shapes = jax.eval_shape(lambda: state.create(self.experiment))

        def here(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            spec = x.sharding.spec if x.sharding else PartitionSpec()
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))

        return jax.tree.map(here, shapes)

    def create_state(self) -> state.State:
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda: state.create(self.experiment))()

    def feed(self, first: int, count: int):
        e = self.experiment
        return training_rows(self.data.rows, first, count, e.microbatches, e.batch_size, e.data.length)

    def next_count(self) -> int:
        """Steps of the next dispatch: up to the next pause, at most steps_per_dispatch."""
        e = self.experiment
        nearest = min(every - self.step % every for every in pauses(e))
        return min(e.steps_per_dispatch or 1, nearest, e.steps - self.step)

    def pauses_at(self, step: int) -> bool:
        return step >= self.experiment.steps or any(step % every == 0 for every in pauses(self.experiment))

    def tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(self, event)


def pauses(experiment: Experiment) -> list[int]:
    return [every for every in (experiment.evaluation.every, experiment.checkpoints.every) if every] or [
        experiment.steps
    ]


def check_identity(saved: dict, experiment: Experiment, folder: Path) -> list[str]:
    """Lines for what may change and did. Raises RunError naming every identity field that differs."""
    changed = fields.differences(saved, experiment)
    mine = [(path, old, new) for path, old, new in changed if path.split(".")[0] in IDENTITY]
    if mine:
        shown = "; ".join(f"{path}: {old!r} there, {new!r} here" for path, old, new in mine[:8])
        more = f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        raise RunError(f"{folder} holds another run ({shown}{more}); take another --run-dir, or start anew with --from")
    return [f"{path}: {old!r} -> {new!r}" for path, old, new in changed]


def check_data(saved: dict, here: dict, folder: Path) -> None:
    """Raises RunError if the text or the tokenizer is not what the run began with."""
    differ = [f"{split} {what}" for split in here for what in here[split] if saved[split][what] != here[split][what]]
    if differ:
        raise RunError(
            f"{folder} was trained on other data (changed: {', '.join(differ)}); put the files back, or take another "
            f"--run-dir (--from {folder} starts it from these weights)"
        )


def check(experiment: Experiment, vocab_size: int) -> None:
    """What no single dataclass can see. Raises ConfigError naming paths and values that would work."""
    e, m = experiment, experiment.model
    if m.vocab_size < vocab_size:
        raise fields.ConfigError(
            f"model.vocab_size: {m.vocab_size} is smaller than the tokenizer's {vocab_size}; "
            f"set model.vocab_size={vocab_size} (a little more is allowed)"
        )
    if e.data.length > m.context:
        raise fields.ConfigError(f"data.length: {e.data.length} is longer than model.context={m.context}; set either")
    for path in ("steps", "batch_size", "microbatches", "data.length", "evaluation.every", "checkpoints.every"):
        value = functools.reduce(getattr, path.split("."), e)
        if value < 1:
            raise fields.ConfigError(f"{path}: must be at least 1, got {value}")
    if e.batch_size % e.microbatches:
        near = max(d for d in range(1, e.microbatches + 1) if e.batch_size % d == 0)
        raise fields.ConfigError(
            f"microbatches: {e.microbatches} does not divide batch_size={e.batch_size}; try {near}"
        )
    for place, stack in enumerate(m.layers):
        for number, block in enumerate(stack.pattern):
            check_block(f"model.layers.{place}.pattern.{number}", block, m.width)


def check_block(path: str, block, width: int) -> None:
    mixer = block.mixer
    if mixer.heads < 1 or mixer.kv_heads < 1 or mixer.heads % mixer.kv_heads:
        fits = [d for d in range(1, mixer.heads + 1) if mixer.heads % d == 0]
        raise fields.ConfigError(
            f"{path}.mixer.kv_heads: {mixer.kv_heads} does not divide heads={mixer.heads}; try {fits}"
        )
    if mixer.heads * mixer.head_width != width and width % mixer.heads:
        fits = [d for d in range(1, width + 1) if width % d == 0 and d <= 4 * mixer.heads]
        raise fields.ConfigError(
            f"{path}.mixer.heads: {mixer.heads} does not divide model.width={width}; try one of {fits}"
        )
    if mixer.rope and mixer.head_width % 2:
        raise fields.ConfigError(
            f"{path}.mixer.head_width: rotary positions need an even width, not {mixer.head_width}"
        )
    if not 0 <= block.token_shift <= 1:
        raise fields.ConfigError(f"{path}.token_shift: a share between 0 and 1, not {block.token_shift}")


def parameters(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def read_config(folder: Path) -> dict | None:
    """RUN/config.json's experiment, or None where there is none."""
    file = folder / "config.json"
    return json.loads(file.read_text())["experiment"] if file.is_file() else None
