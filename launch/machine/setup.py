"""Before JAX is imported: flags, caches, and the other processes of a run. Every command calls `prepare` first."""

from __future__ import annotations

import importlib.util
import os

from launch.cluster import join
from launch.cluster.slots import ProcessSlot
from launch.machine.detection import cache_folder, has_accelerator
from launch.machine.tuning import cpu_tuning
from train.config import Experiment

NO_TPU = {  # TPU's compiler looks for no device, several processes may load it at once, and errors are only raised
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


def prepare(experiment: Experiment | None = None, here: ProcessSlot | None = None, elsewhere: bool = False) -> None:
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
        if cpu_tuning():
            cpu_tuning().set_flags(experiment, here.processes if here else 1)
    import jax  # only now: XLA reads its flags when it is loaded

    if elsewhere:  # JAX (0.10 to 0.12) can't read such programs back
        return
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if here:
        join.join(here)
