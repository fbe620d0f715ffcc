"""Saves and restores checkpoints with Orbax: asynchronous, published whole or not at all, each enough to generate with.

RUN/checkpoints/STEP/ holds four items: `model`, `average` (where there is one), `optimizer`, and `about`, the metadata:
step, config, tokenizer, data fingerprints, scores. train/checkpoint_folder.py finds them by name.
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

from model.config import LoRA, Model
from model.lora import adapted_config
from model.paths import flatten_by_path
from model.transformer import abstract_model
from train import fields, processes
from train.checkpoint_folder import (
    METADATA,
    RANKED_BY,
    CheckpointError,
    CheckpointRef,
    DamagedCheckpoint,
    published_steps,
    rank,
    saved_scores,
    set_aside,
    unfinished_steps,
)
from train.run import RunError
from train.state import TrainState

OVERHEAD = 1_000_000  # bytes: more than Orbax writes besides the arrays and our metadata

CHUNK = 1 << 26  # bytes of an array that are written at once, where a checkpoint holds weights alone
WEIGHTS = {"average": "average", "plain": "model"}  # kinds that callers may ask for, the default first, and their items


def unflatten_by_path(tree, arrays: dict[str, jax.Array]):
    """`tree` with the arrays that `flatten_by_path` gave. Raises CheckpointError naming what is missing or extra."""
    expected = flatten_by_path(tree)
    if expected.keys() != arrays.keys():
        missing, extra = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
        raise CheckpointError(f"the checkpoint's arrays are not the config's: missing {missing[:3]}, extra {extra[:3]}")
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in expected])


def orbax_items(state: TrainState) -> dict:
    """The arrays of a state by Orbax item and path: what a checkpoint saves. What is frozen stands in RUN/base."""
    trees = {"model": state.model, "optimizer": state.optimizer, "average": state.average}
    return {name: flatten_by_path(tree) for name, tree in trees.items() if tree is not None and flatten_by_path(tree)}


def one_copy(x: jax.Array) -> jax.Array:
    """An array that all devices of a lone process hold, as one of them does. Else Orbax would have each device write a
    slice of it, and compile a program for every shape."""
    return x.addressable_data(0) if x.is_fully_addressable and x.is_fully_replicated else x


class PreservationPolicy:
    """Orbax's preservation policy for a run: it keeps the newest checkpoints, and the best ones by each score of
    RANKED_BY.

    Scores of checkpoints from before a restart are read from the checkpoints themselves.
    """

    def __init__(self, run: Path, last: int, best: int):
        self.last, self.best = last, best
        saved = processes.broadcast_from_first(lambda: [list(saved_scores(run, n).items()) for n in RANKED_BY.values()])
        self.scores = {name: dict(by_step) for name, by_step in zip(RANKED_BY.values(), saved, strict=True)}

    def record(self, step: int, scores: dict) -> None:
        """Takes in the scores of a checkpoint."""
        for name, by_step in self.scores.items():
            by_step[step] = scores.get(name)

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        preserved = set(steps[-self.last :])
        for by_step in self.scores.values():
            preserved |= set(rank({step: by_step.get(step) for step in steps})[: self.best])
        return [checkpoint.step in preserved for checkpoint in checkpoints]


def multiprocessing_options() -> ocp.options.MultiprocessingOptions:
    """With processes named, Orbax waits for them through the coordination service. Else it would through the devices:
    saving runs beside the steps, and would be dispatched in another order on each process."""
    all_processes = set(range(processes.count())) if processes.count() > 1 else None
    return ocp.options.MultiprocessingOptions(active_processes=all_processes)


def check_free_space(folder: Path, needed: int) -> None:
    """Raises RunError where a folder's disk has less than `needed` bytes left. Orbax would fail too, with pages of
    tracebacks and an unfinished folder."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: a checkpoint takes {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB left; free "
            f"some and start the same command again"
        )


class Checkpoints:
    """Saves, scores and restores the checkpoints of one run. The best are those with the lowest scores (RANKED_BY).

    Each process saves and restores what its own devices hold. Process 0 does everything else in the folder, and decides
    which checkpoints there are. All processes call every method.
    """

    def __init__(self, run: Path, keep_last: int, keep_best: int):
        self.folder, self.policy = run / "checkpoints", PreservationPolicy(run, keep_last, keep_best)
        processes.broadcast_from_first(self.prepare_folder)
        self.manager = ocp.CheckpointManager(
            self.folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self.policy,
                create=False,
                multiprocessing_options=multiprocessing_options(),
            ),
        )

    def prepare_folder(self) -> None:
        """Makes the folder, and renames unfinished checkpoints: Orbax goes by names, and saves no step up to theirs."""
        self.folder.mkdir(exist_ok=True)
        for step in unfinished_steps(self.folder.parent):
            set_aside(self.folder / str(step))

    def save(self, step: int, state: TrainState, metadata: dict, scores: dict | None) -> None:
        """Starts saving; returns once the arrays left the devices. Errors of an earlier save are raised here."""
        metadata = {**metadata, "step": step, "saved": time.time(), "scores": scores or {}}
        needed = OVERHEAD + 2 * len(json.dumps(metadata))
        items = {name: jax.tree.map(one_copy, arrays) for name, arrays in orbax_items(state).items()}
        needed += sum(x.nbytes for arrays in items.values() for x in arrays.values())
        check_free_space(self.folder, needed)
        args = {name: ocp.args.StandardSave(arrays) for name, arrays in items.items()}
        args["about"] = ocp.args.JsonSave(metadata)
        self.policy.record(step, metadata["scores"])
        if not self.manager.save(step, args=ocp.args.Composite(**args)):
            raise RunError(f"{self.folder}: step {step} was not saved; is another program writing there?")

    def score(self, step: int, scores: dict) -> None:
        """Writes its scores into a published checkpoint that was saved before they were known."""
        self.wait()
        self.policy.record(step, scores)
        if processes.index():
            return
        file = self.folder / str(step) / METADATA
        temporary = file.with_name("metadata.scored")
        temporary.write_text(json.dumps({**json.loads(file.read_text()), "scores": scores}))
        temporary.replace(file)

    def is_published(self) -> bool:
        """Whether the last save is complete. Raises the error that made it fail."""
        if self.manager.is_saving_in_progress():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()

    def restore_newest(self, state: TrainState, report: Callable[[str], None]) -> TrainState | None:
        """Restores the newest checkpoint that can be read; returns None where the run has no checkpoint.

        Newer ones that can't be read are renamed out of the way, and `report` gets a line for each. Raises
        CheckpointError where there are checkpoints and none can be read.
        """
        damaged: list[int] = []
        for step in reversed(processes.broadcast_from_first(lambda: published_steps(self.folder.parent))):
            restored, failure = None, ""
            try:
                restored = self.restore(step, state)
            except Exception as error:  # Orbax, TensorStore and the file system have an error each for every damage
                failure = reason_of(error)
            # One process may fail alone: each reads other parts of the checkpoint.
            if failures := [text for text in processes.all_gather_json(failure) if text]:
                damaged.append(step)
                report(f"checkpoint {step} can't be read ({failures[0]})")
                continue
            for bad in damaged:
                new_path = processes.broadcast_from_first(lambda bad=bad: str(set_aside(self.folder / str(bad))))
                report(f"put aside as {new_path}")
            self.manager.reload()
            return restored
        if damaged:
            raise CheckpointError(
                f"{self.folder}: none of the checkpoints {damaged} can be read; put whole ones back, or take another "
                f"--run-dir"
            )
        return None

    def restore(self, step: int, state: TrainState) -> TrainState:
        """The saved state of `step`, in the types and shardings of `state` (of arrays, or of their shapes)."""
        items = {name: read_item(self.folder / str(step) / name, arrays) for name, arrays in orbax_items(state).items()}
        model, optimizer = (
            unflatten_by_path(state.model, items["model"]),
            unflatten_by_path(state.optimizer, items["optimizer"]),
        )
        average = None if state.average is None else unflatten_by_path(state.average, items["average"])
        # Not device_put: it waits for all processes, to compare their values, and one may have failed to read.
        step_array = jax.make_array_from_callback((), state.step.sharding, lambda _: np.int32(step))
        return TrainState(step_array, model, optimizer, average)


def save_weights(folder: Path, weights, metadata: dict) -> None:
    """Writes a checkpoint of weights alone, at step 0. The folder that holds it is to appear whole: it is not here.

    A gigabyte is in flight at a time, in chunks, and files are Zarr's own: Orbax's OCDBT would keep copies of all until
    the end, and a parameter in one chunk is compressed by one core.
    """
    arrays = flatten_by_path(weights)
    chunks = dict.fromkeys(arrays, ocp.SaveArgs(chunk_byte_size=CHUNK))
    handler = ocp.StandardCheckpointHandler(save_concurrent_gb=1, use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save((folder / "model").absolute(), args=ocp.args.StandardSave(arrays, save_args=chunks))
    (folder / METADATA).parent.mkdir()
    (folder / METADATA).write_text(json.dumps({**metadata, "step": 0, "saved": time.time(), "scores": {}}))


def read_item(item: Path, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """One item of a checkpoint, in the types and shardings of `arrays`; every process reads what its devices hold.

    Orbax's handler reads it, not its Checkpointer, which makes all processes wait for one that failed to read its part.
    Raises DamagedCheckpoint.
    """
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in arrays.items()}
    try:
        return ocp.StandardCheckpointHandler().restore(item.absolute(), args=ocp.args.StandardRestore(abstract))
    except Exception as error:  # Orbax, TensorStore and the file system have an error each; some are a bare Exception
        raise DamagedCheckpoint(f"{item}: can't be read ({reason_of(error)}); take another checkpoint") from error


def reason_of(error: BaseException) -> str:
    """One line: what the first of a chain of errors said. Orbax's own, raised from it, says at which index it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error), 240) or type(error).__name__


def stored_lora(checkpoint: CheckpointRef) -> LoRA | None:
    """The adapters in a checkpoint; None where it holds whole weights."""
    metadata = checkpoint.metadata
    return fields.from_json(LoRA | None, (metadata["config"] or metadata).get("lora"))  # no config: imported


def model_config(checkpoint: CheckpointRef) -> Model:
    """The config of the model that a checkpoint's weights make, merged adapters included."""
    return adapted_config(fields.from_json(Model, checkpoint.metadata["model"]), stored_lora(checkpoint))


def check_weights_fit(checkpoint: CheckpointRef, model: Model) -> None:
    """Raises CheckpointError, naming what differs, where a model of this config can't take these weights."""
    saved = model_config(checkpoint)
    shapes = [
        {name: x.shape for name, x in flatten_by_path(abstract_model(config)).items()} for config in (saved, model)
    ]
    if shapes[0] != shapes[1]:
        differ = "; ".join(f"{p}: {old!r} there, {new!r} here" for p, old, new in fields.differences(saved, model))
        raise CheckpointError(f"{checkpoint.folder}: its weights do not fit this model ({differ})")


def read_weights(checkpoint: CheckpointRef, model, kind: str | None = None):
    """A checkpoint's weights of one kind (None: the average where it has one), in the types and shardings of `model`.

    Raises CheckpointError where it has none of that kind, DamagedCheckpoint where they can't be read.
    """
    folder = stored_weights(checkpoint, kind)
    return unflatten_by_path(model, read_item(folder, flatten_by_path(model)))


def stored_weights(checkpoint: CheckpointRef, kind: str | None = None) -> Path:
    """The folder of a checkpoint's weights of one kind, as of read_weights, and raises as that does."""
    kinds = [name for name, item in WEIGHTS.items() if (checkpoint.folder / item).is_dir()]
    if not kinds:
        raise DamagedCheckpoint(f"{checkpoint.folder}: no weights in it; take another checkpoint")
    if kind not in (None, *kinds):
        reason = "; optimizer.average was null" if kind == "average" else ""
        raise CheckpointError(f"{checkpoint.folder}: no {kind} weights in it{reason}; there are {', '.join(kinds)}")
    return checkpoint.folder / WEIGHTS[kind or kinds[0]]
