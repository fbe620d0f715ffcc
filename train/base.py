"""The frozen weights of a run, stored once, in RUN/base: those that adapters stand beside, which are added to a
checkpoint's adapters, and the reference model of preference tuning.

RUN/base/weights is an Orbax item, RUN/base/sha256.json the checksum of each of its files: Orbax does not see a flipped
bit. launch/ calls it: the folder stands before the first checkpoint, and with it the run is enough by itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from model.lora import Adapters, create_adapters, merge
from model.paths import flatten_by_path
from model.transformer import Transformer
from train import processes
from train.checkpoint import (
    OVERHEAD,
    check_free_space,
    multiprocessing_options,
    read_item,
    read_weights,
    stored_lora,
    unflatten_by_path,
)
from train.checkpoint_folder import CheckpointError, CheckpointRef

BASE, WEIGHTS, CHECKSUMS = "base", "weights", "sha256.json"


def write_base(run: Path, base: Transformer) -> None:
    """Stores the base of a run that has no checkpoint yet: whole, or not at all. All processes call it."""
    unfinished = run / f"{BASE}.unfinished"
    needed = OVERHEAD + sum(x.nbytes for x in jax.tree.leaves(base))

    def prepare() -> None:
        shutil.rmtree(unfinished, ignore_errors=True)
        check_free_space(run, needed)
        unfinished.mkdir()

    def publish() -> None:
        (unfinished / CHECKSUMS).write_text(json.dumps(checksums(unfinished / WEIGHTS), indent=1))
        shutil.rmtree(run / BASE, ignore_errors=True)  # of a start that ended before the first checkpoint
        unfinished.rename(run / BASE)

    processes.broadcast_from_first(prepare)
    with ocp.StandardCheckpointer(multiprocessing_options=multiprocessing_options()) as checkpointer:
        checkpointer.save((unfinished / WEIGHTS).absolute(), flatten_by_path(base))
    processes.broadcast_from_first(publish)


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_base(run: Path, base: Transformer) -> Transformer:
    """The base of a run, in the types and shardings of `base`. Process 0 checks it for all. Raises CheckpointError."""
    if problem := processes.broadcast_from_first(lambda: damage(run / BASE)):
        raise CheckpointError(
            f"{run / BASE}: {problem}; this run is nothing without its frozen weights: put the folder back, or start a "
            "new run with --from"
        )
    return unflatten_by_path(base, read_item(run / BASE / WEIGHTS, flatten_by_path(base)))


def damage(folder: Path) -> str:
    """What is wrong with a stored base, in a few words; nothing where it is whole."""
    if not folder.is_dir():
        return "no such folder"
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
        found = checksums(folder / WEIGHTS)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return str(error)
    differ = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    return f"{differ[0]} is not what was stored" if differ else ""


def read_model(checkpoint: CheckpointRef, model: Transformer, kind: str | None = None) -> Transformer:
    """A checkpoint's weights, adapters merged into the run's base, in the types and shardings of `model`. `kind`: as of
    read_weights. Raises CheckpointError."""
    if stored_lora(checkpoint) is None:
        return read_weights(checkpoint, model, kind)
    adapters = read_adapters(checkpoint, model, kind)
    base = read_base(checkpoint.folder.parents[1], model)
    return jax.jit(merge, donate_argnums=0)(base, adapters)


def read_adapters(checkpoint: CheckpointRef, model: Transformer, kind: str | None = None) -> Adapters:
    """The adapters alone of a checkpoint that has some; `model` and `kind` as of read_model. Raises CheckpointError."""
    lora = stored_lora(checkpoint)
    shapes = jax.eval_shape(lambda: create_adapters(model.config, lora, jax.random.key(0)))
    return read_weights(checkpoint, place(shapes, jax.tree.leaves(model)[0].sharding), kind)


def place(shapes: Adapters, sharding: jax.sharding.Sharding) -> Adapters:
    """The shapes of adapters on the devices of this sharding of a weight: on the current mesh, or on one device."""

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        here = NamedSharding(sharding.mesh, x.sharding.spec) if isinstance(sharding, NamedSharding) else sharding
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

    return jax.tree.map(placed, shapes)
