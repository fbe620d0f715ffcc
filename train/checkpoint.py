"""Saving and restoring by Orbax: asynchronous, published whole or not at all, and enough by themselves to write with.

RUN/checkpoints/STEP/ holds four items: `model`, `average` (where there is one), `optimizer`, and `about`, the metadata:
step, config, tokenizer, data fingerprints, scores. train/checkpoint_folder.py knows them by name.
"""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from model.config import Model
from model.transformer import abstract_model
from train import fields, processes
from train.checkpoint_folder import (
    METADATA,
    CheckpointError,
    CheckpointRef,
    published_steps,
    rank_by_loss,
    set_aside,
    unfinished_steps,
    validation_losses,
)
from train.run import RunError
from train.state import TrainState

OVERHEAD = 1_000_000  # bytes: more than Orbax writes besides the arrays and what we say of them

WEIGHTS = {"average": "average", "plain": "model"}  # kinds that can be asked for, best first, and their items


def flatten_by_path(tree) -> dict[str, jax.Array]:
    """A tree's arrays by path: what is stored, whatever classes the tree is made of."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path]
        found[".".join(names).removesuffix(".value")] = leaf
    return found


def unflatten_by_path(tree, arrays: dict[str, jax.Array]):
    """`tree` with the arrays of what `flatten_by_path` made. Raises CheckpointError naming what is missing or extra."""
    wanted = flatten_by_path(tree)
    if wanted.keys() != arrays.keys():
        missing, extra = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
        raise CheckpointError(f"the checkpoint's arrays are not the config's: missing {missing[:3]}, extra {extra[:3]}")
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in wanted])


def orbax_items(state: TrainState) -> dict:
    """What is saved of a state, an Orbax item each."""
    held = {"model": state.model, "optimizer": state.optimizer, "average": state.average}
    return {name: flatten_by_path(tree) for name, tree in held.items() if tree is not None and flatten_by_path(tree)}


class PreservationPolicy:
    """Orbax's preservation policy of a run: the last ones, and of those that were scored the best.

    Scores of checkpoints from before a restart are read from the checkpoints themselves.
    """

    def __init__(self, run: Path, last: int, best: int):
        self.last, self.best = last, best
        self.losses = dict(processes.broadcast_from_first(lambda: list(validation_losses(run).items())))

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self.last :], *rank_by_loss({step: self.losses.get(step) for step in steps})[: self.best]}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run, for its trainer. The best are those of the lowest eval/loss.

    Of several processes each saves and restores what its devices hold; process 0 does all else in the folder, and
    decides what there is. All of them call every method.
    """

    def __init__(self, run: Path, keep_last: int, keep_best: int):
        self.folder, self.keep = run / "checkpoints", PreservationPolicy(run, keep_last, keep_best)
        processes.broadcast_from_first(self.prepare_folder)
        everyone = set(range(processes.count())) if processes.count() > 1 else None
        self.manager = ocp.CheckpointManager(
            self.folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self.keep,
                create=False,
                # Named, the processes wait for each other through the coordination service; not through the devices,
                # where saving, which runs beside the steps, would meet them in another order on each process.
                multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=everyone),
            ),
        )

    def prepare_folder(self) -> None:
        """Makes the folder. Orbax goes by names: it would save nothing up to a step whose folder lacks a part."""
        self.folder.mkdir(exist_ok=True)
        for step in unfinished_steps(self.folder.parent):
            set_aside(self.folder / str(step))

    def save(self, step: int, state: TrainState, metadata: dict, scores: dict | None) -> None:
        """Starts saving; returns once the arrays are copied off. Errors of an earlier save are raised here."""
        metadata = {**metadata, "step": step, "saved": time.time(), "scores": scores or {}}
        needed = OVERHEAD + 2 * len(json.dumps(metadata))
        needed += sum(x.nbytes for arrays in orbax_items(state).values() for x in arrays.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:  # Orbax would find out too, with pages of tracebacks and an unfinished folder
            raise RunError(
                f"{self.folder}: a checkpoint takes {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB left; "
                f"free some and start the same command again"
            )
        args = {name: ocp.args.StandardSave(arrays) for name, arrays in orbax_items(state).items()}
        args["about"] = ocp.args.JsonSave(metadata)
        self.keep.losses[step] = metadata["scores"].get("eval/loss")
        if not self.manager.save(step, args=ocp.args.Composite(**args)):
            raise RunError(f"{self.folder}: step {step} was not saved; is another program writing there?")

    def score(self, step: int, scores: dict) -> None:
        """Writes into a published checkpoint how it scored: it was saved before that was known."""
        self.wait()
        self.keep.losses[step] = scores.get("eval/loss")
        if processes.index():
            return
        file = self.folder / str(step) / METADATA
        beside = file.with_name("metadata.scored")
        beside.write_text(json.dumps({**json.loads(file.read_text()), "scores": scores}))
        beside.replace(file)

    def is_published(self) -> bool:
        """Whether nothing is being saved any more. Raises what made the last save fail."""
        if self.manager.is_saving_in_progress():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()

    def restore_newest(self, state: TrainState, report: Callable[[str], None]) -> TrainState | None:
        """The newest checkpoint that can be read; None where there is none. Newer ones that can't are put aside.

        Raises CheckpointError where none of those that are there can be read.
        """
        damaged: list[int] = []
        for step in reversed(processes.broadcast_from_first(lambda: published_steps(self.folder.parent))):
            found, wrong = None, ""
            try:
                found = self.restore(step, state)
            except Exception as error:  # Orbax, TensorStore and the file system have an error each for every damage
                wrong = textwrap.shorten(str(error), 120) or type(error).__name__
            if wrongs := [
                text for text in processes.all_gather_json(wrong) if text
            ]:  # each process reads other parts of it
                damaged.append(step)
                report(f"checkpoint {step} can't be read ({wrongs[0]})")
                continue
            for bad in damaged:
                aside = processes.broadcast_from_first(lambda bad=bad: str(set_aside(self.folder / str(bad))))
                report(f"put aside as {aside}")
            self.manager.reload()
            return found
        if damaged:
            raise CheckpointError(
                f"{self.folder}: none of the checkpoints {damaged} can be read; put whole ones back, or take another "
                f"--run-dir"
            )
        return None

    def restore(self, step: int, state: TrainState) -> TrainState:
        """The saved state of `step`, in the types and shardings of `state`, arrays or their shapes."""
        found = {name: read_item(self.folder / str(step) / name, arrays) for name, arrays in orbax_items(state).items()}
        model, optimizer = (
            unflatten_by_path(state.model, found["model"]),
            unflatten_by_path(state.optimizer, found["optimizer"]),
        )
        average = None if state.average is None else unflatten_by_path(state.average, found["average"])
        # Not device_put: it would ask the other processes whether they put the same, and one may have read nothing.
        at = jax.make_array_from_callback((), state.step.sharding, lambda _: np.int32(step))
        return TrainState(at, model, optimizer, average)


def read_item(item: Path, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """An item of a checkpoint in the types and shardings of `arrays`; every process reads what its devices hold.

    By Orbax's handler and not its Checkpointer: that makes all processes wait for one that could not read its part.
    """
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in arrays.items()}
    return ocp.StandardCheckpointHandler().restore(item.absolute(), args=ocp.args.StandardRestore(wanted))


def check_weights_fit(checkpoint: CheckpointRef, model: Model) -> None:
    """Raises CheckpointError naming what differs, where a model of this config can't take these weights."""
    there = fields.from_json(Model, checkpoint.metadata["config"]["model"])
    sizes = [
        {name: x.shape for name, x in flatten_by_path(abstract_model(config)).items()} for config in (there, model)
    ]
    if sizes[0] != sizes[1]:
        differ = "; ".join(f"{p}: {old!r} there, {new!r} here" for p, old, new in fields.differences(there, model))
        raise CheckpointError(f"{checkpoint.folder}: its weights do not fit this model ({differ})")


def read_weights(checkpoint: CheckpointRef, model, kind: str | None = None):
    """The weights of this kind (None: the average where one was kept), in the types and shardings of `model`.

    Raises CheckpointError where they are not there.
    """
    there = [name for name, item in WEIGHTS.items() if (checkpoint.folder / item).is_dir()]
    if kind not in (None, *there):
        reason = "; optimizer.average was null" if kind == "average" else ""
        raise CheckpointError(f"{checkpoint.folder}: no {kind} weights in it{reason}; there are {', '.join(there)}")
    return unflatten_by_path(model, read_item(checkpoint.folder / WEIGHTS[kind or there[0]], flatten_by_path(model)))
