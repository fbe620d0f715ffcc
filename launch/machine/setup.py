"""Sets up JAX before it is imported: flags, caches, other processes of the run. Every command calls `prepare` first."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os

from launch.cluster import join
from launch.cluster.slots import ProcessSlot
from launch.machine.detection import compiled_folder, has_accelerator
from launch.machine.tuning import cpu_tuning
from train.config import Experiment

WITHOUT_TPU = {  # TPU's compiler looks for no device, several processes may load it, and it prints no errors
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip
COLLECTED_AFTER = 50_000  # new objects; Python's own 700 make imports and tracing a tenth longer


def prepare(experiment: Experiment | None = None, slot: ProcessSlot | None = None, compile_only: bool = False) -> None:
    """Sets XLA's flags and JAX's compilation cache, and joins the other processes of the run. Call before JAX is used.

    `experiment`: what is going to be trained; None: a checkpoint is only used. `slot`: this process's place among
    several. `compile_only`: for TPUs that are not here. Flags that the environment sets are kept.
    """
    gc.set_threshold(COLLECTED_AFTER)
    atexit.register(gc.freeze)  # else the interpreter searches everything once more as it ends: a third of a second
    if compile_only:
        for name, value in WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
    elif not has_accelerator():
        if importlib.util.find_spec("libtpu"):  # installed for plans: JAX would look for a TPU, and complain at length
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        if cpu_tuning():
            cpu_tuning().set_flags(experiment, slot.num_processes if slot else 1)
    import jax  # only now: XLA reads its flags when it is loaded

    if compile_only:  # JAX (0.10 to 0.12) can't read such programs back
        return
    jax.config.update("jax_compilation_cache_dir", str(compiled_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if slot:
        join.join(slot)
