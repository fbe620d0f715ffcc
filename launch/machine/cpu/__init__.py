"""What makes training and decoding fast on a CPU, and nothing else: delete this folder and only speed changes, and how
products are rounded where a config leaves that open (execution.precision).

launch/machine/setup.py and auto.py call it through tuning.py. Figures: README, "What was measured".
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

from launch.machine.detection import cores
from launch.machine.processor import multiplies_bfloat16
from model.config import Execution
from train.config import Experiment

STEPS_PER_DISPATCH = 10  # a call has a fixed cost; more in one would delay the first loss and the answer to a signal
BARRIER_REMOVAL = "cse_barrier_expander"  # the pass of XLA that removes optimization barriers before fusion
# With this scheduler all parameters are drawn at once: the model is twice in memory.
CONCURRENT_SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"
TREE_REDUCTION = "tree_reduction_rewriter"  # the pass that splits a sum over rows into many small sums


def set_flags(experiment: Experiment | None, processes: int = 1) -> None:
    """Adds to XLA_FLAGS: barriers are kept and, where `experiment` is trained, every core is a device.

    A flag that the user has set keeps its value.
    """
    users_own = os.environ.get("XLA_FLAGS", "")
    flags = {"xla_disable_hlo_passes": BARRIER_REMOVAL}
    if experiment is not None:
        flags["xla_force_host_platform_device_count"] = str(device_count(experiment, cores(), processes))
        flags["xla_disable_hlo_passes"] += f",{TREE_REDUCTION}"
        flags[CONCURRENT_SCHEDULER] = "false"
    added = [f"--{name}={value}" for name, value in flags.items() if name not in users_own]
    os.environ["XLA_FLAGS"] = " ".join([users_own, *added]).strip()


def device_count(experiment: Experiment, cores: int, processes: int = 1) -> int:
    """Devices of each process: as many as there are cores for, of the numbers over which mesh and rows divide."""
    stated = max(1, math.prod(size for size in vars(experiment.mesh).values() if size))
    if 0 not in vars(experiment.mesh).values():
        return max(1, min(stated // processes, cores))
    rows = experiment.batch_size // max(1, experiment.microbatches)
    fits = [n for n in range(1, cores + 1) if n * processes % stated == 0 and rows % (n * processes) == 0]
    return max(fits, default=cores)


def resolve(experiment: Experiment, devices: int) -> Experiment:
    """The experiment with its open choices made for a CPU: layers unrolled, many steps a dispatch, rows over cores,
    products of bfloat16 where the processor has them."""
    e, mesh = experiment, experiment.mesh
    rows = e.batch_size // e.microbatches
    if (mesh.replica, mesh.data) == (1, 0) and rows % devices == 0:
        mesh = replace(mesh, replica=0, data=1)  # parameters whole on each core: nothing to gather
    steps = e.steps_per_dispatch or STEPS_PER_DISPATCH
    layers = "unroll" if e.execution.layers == "auto" else e.execution.layers
    precision = e.execution.precision if multiplies_bfloat16() else "default"
    execution = replace(e.execution, layers=layers, precision=precision)
    return replace(e, steps_per_dispatch=steps, mesh=mesh, execution=execution)


def decoding_execution(execution: Execution) -> Execution:
    """Execution for a decoder on a CPU: weights in panels, and a cache that is not copied at every token."""
    return replace(execution, panels=True, kernel="cached" if execution.kernel == "auto" else execution.kernel)


def rewrite(function, precision: str):
    """The function with a barrier behind every large value that is read more than once (launch/machine/cpu/barriers.py)
    and, if the precision allows it, with rounded operands of products (launch/machine/cpu/products.py)."""
    from launch.machine.cpu import barriers  # imports JAX, which must not be imported before set_flags

    return barriers.rewrite(function, rounded=precision == "bfloat16")
