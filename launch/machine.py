"""Before JAX is imported: caches, flags and what is chosen for the kind of machine. Every command calls `prepare`."""

from __future__ import annotations

import glob
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch import chips, cluster
from model import cost
from model.config import Execution
from train.config import Experiment

if TYPE_CHECKING:
    from train.program import Program

LEAST_FIRST = ("none", "minimal", "save_qkv", "full")  # remat policies, by what they recompute
NO_TPU = {  # TPU's compiler looks for no device, several processes may load it at once, and errors are only raised
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip
ROOM = 0.95  # of a device's memory that a choice by arithmetic may fill


def cache() -> Path:
    """Where tokenized stores and compiled programs are kept."""
    return Path(os.environ.get("SKALD_CACHE", "~/.cache/skald")).expanduser()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tuning():
    """launch/cpu where it is there: without it everything runs, more slowly on CPU."""
    return importlib.import_module("launch.cpu") if (Path(__file__).parent / "cpu" / "__init__.py").is_file() else None


def prepare(
    experiment: Experiment | None = None, here: cluster.ProcessSlot | None = None, elsewhere: bool = False
) -> None:
    """Sets flags for training `experiment`, or for writing, and turns the compilation cache on. Call before JAX works.

    `here`: joins the other processes of the run. `elsewhere`: only compiles, for TPUs that are not here. The
    environment's own flags stay.
    """
    if elsewhere:
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)
    elif not has_accelerator():
        if importlib.util.find_spec("libtpu"):  # there for plans: JAX would look for a TPU, and complain at length
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        if tuning():
            tuning().set_flags(experiment, here.processes if here else 1)
    import jax  # only now: XLA reads its flags when it is loaded

    if elsewhere:  # JAX (0.10 to 0.12) can't read such programs back
        return
    folder = cache() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if here:
        cluster.join(here)


def has_accelerator() -> bool:
    """Whether JAX will find more than CPUs: what is set for them would bend its programs too."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked != "cpu" and any(map(glob.glob, ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*")))


def program(experiment: Experiment, devices: list | None = None) -> Program:
    """The steps of an experiment as they run best on these devices, which need not be here; None: on those that are."""
    import jax  # after prepare, as all that imports it

    from launch import flags
    from train.program import Program

    one = devices[0] if devices else jax.local_devices()[0]
    devices = devices or jax.devices()
    rewritten = {"tuned": tuning().tuned} if one.platform == "cpu" and tuning() else {}
    return Program(fitted(experiment, one, len(devices)), devices, options=flags.compiler_options(one), **rewritten)


def fitted(experiment: Experiment, one, count: int) -> Experiment:
    """The experiment with what it leaves open chosen for `count` devices like this one, which is this process's own."""
    if one.platform == "cpu" and tuning():
        experiment = tuning().fitted(experiment, count)
    experiment = replace(experiment, execution=resolve_auto(experiment.execution, one.platform))
    remat = experiment.execution.remat
    remat = choose_remat(experiment, count, chips.memory(one)) if remat == "auto" else remat
    return replace(experiment, execution=replace(experiment.execution, remat=remat))


def choose_remat(experiment: Experiment, devices: int, memory: float) -> str:
    """The remat policy that recomputes least of those that fit into a device's memory, by arithmetic (model/cost.py).

    Raises ShardingError where the mesh is none of so many devices.
    """
    from model.sharding import mesh_shape  # after prepare: it imports JAX

    e, shape = experiment, mesh_shape(vars(experiment.mesh), devices)

    kept, rows = optimizer_numbers(e), e.batch_size // e.microbatches

    def fits(remat: str) -> bool:
        execution = replace(e.execution, remat=remat)
        size = cost.estimate_memory(e.model, execution, shape, rows, e.data.length, kept, e.microbatches > 1)
        return size.total <= ROOM * memory

    return next(filter(fits, LEAST_FIRST), LEAST_FIRST[-1])


def optimizer_numbers(experiment: Experiment) -> float:
    """How many numbers the optimizer keeps for every parameter, and the average of weights with it: by the state's own
    shapes."""
    import jax  # after prepare, as what imports it

    from train import state

    def count(tree) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    made = jax.eval_shape(lambda: state.create_state(experiment))
    return (count(made.optimizer) + count(made.average)) / count(made.model)


def resolve_auto(execution: Execution, platform: str) -> Execution:
    """Where the config leaves it open: the number format that such devices multiply fastest, and one layer compiled."""
    open_ones = {"dtype": "float32" if platform == "cpu" else "bfloat16", "layers": "scan"}
    return replace(execution, **{n: value for n, value in open_ones.items() if getattr(execution, n) == "auto"})


def decoding_execution(execution: Execution) -> Execution:
    """How a checkpoint's model computes on this machine: the kernel its config names was that of the training's."""
    import jax  # after prepare

    execution = replace(resolve_auto(execution, jax.default_backend()), remat="none", kernel="auto")
    return tuning().decoding_execution(execution) if jax.default_backend() == "cpu" and tuning() else execution
