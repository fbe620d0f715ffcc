"""Before JAX is imported: caches, flags and what is chosen for the kind of machine. Every command calls `prepare`."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path

from launch import cluster
from model.config import Execution
from train.config import Experiment


def cache() -> Path:
    """Where tokenized stores and compiled programs are kept."""
    return Path(os.environ.get("SKALD_CACHE", "~/.cache/skald")).expanduser()


def tuning():
    """launch/cpu where it is there: without it everything runs, more slowly on CPU."""
    return importlib.import_module("launch.cpu") if (Path(__file__).parent / "cpu" / "__init__.py").is_file() else None


def prepare(experiment: Experiment | None = None, here: cluster.Seat | None = None) -> None:
    """Sets flags for training `experiment`, or for writing, and turns the compilation cache on. Call before JAX works.

    `here`: joins the other processes of the run. The environment's own flags stay.
    """
    if tuning():
        tuning().set_flags(experiment, here.processes if here else 1)
    import jax  # only now: XLA reads its flags when it is loaded

    folder = cache() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if here:
        cluster.join(here)


def fitted(experiment: Experiment) -> Experiment:
    """The experiment with what it leaves open chosen for this machine."""
    import jax  # after prepare

    experiment = replace(experiment, execution=settled(experiment.execution))
    if jax.default_backend() == "cpu" and tuning():
        return tuning().fitted(experiment, len(jax.devices()))
    return experiment


def settled(execution: Execution) -> Execution:
    """With the number format this machine multiplies fastest, where the config leaves that open."""
    import jax  # after prepare

    if execution.dtype != "auto":
        return execution
    return replace(execution, dtype="float32" if jax.default_backend() == "cpu" else "bfloat16")


def writing(execution: Execution) -> Execution:
    """How a checkpoint's model computes on this machine: the kernel its config names was that of the training's."""
    import jax  # after prepare

    execution = replace(settled(execution), remat="none", kernel="auto")
    return tuning().writing(execution) if jax.default_backend() == "cpu" and tuning() else execution


def tuned(function):
    """A training step as this machine runs it best; the same numbers."""
    import jax  # after prepare

    return tuning().tuned(function) if jax.default_backend() == "cpu" and tuning() else function


def queued() -> int:
    """Dispatches that may wait behind the one that runs, so that the device always has work.

    None where a CPU process of several has several devices: jax 0.10.2 then deadlocks in their collectives.
    """
    import jax  # after prepare

    return 0 if jax.default_backend() == "cpu" and jax.process_count() > 1 and jax.local_device_count() > 1 else 1
