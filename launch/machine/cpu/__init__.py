"""What makes training and writing fast on a CPU, and nothing else: delete this folder and only speed changes.

launch/machine/setup.py and auto.py call it where it is there. Figures: README, "What was measured".
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

from launch.machine.detection import cores
from model.config import Execution
from train.config import Experiment

STEPS_PER_DISPATCH = 10  # a call has a fixed cost; more in one would delay the first loss and the answer to a signal
BARRIER_REMOVAL = "cse_barrier_expander"  # a pass of XLA's, before it fuses: in its absence barriers hold
CONCURRENT_SCHEDULER = (
    "xla_cpu_enable_concurrency_optimized_scheduler"  # draws all parameters at once: the model twice in memory
)
TREE_REDUCTION = "tree_reduction_rewriter"  # makes many small sums of one over rows


def set_flags(experiment: Experiment | None, processes: int = 1) -> None:
    """Barriers hold; for a training step one XLA device a core. What the user's own XLA_FLAGS say stays."""
    given = os.environ.get("XLA_FLAGS", "")
    flags = {"xla_disable_hlo_passes": BARRIER_REMOVAL}
    if experiment is not None:
        flags["xla_force_host_platform_device_count"] = str(device_count(experiment, cores(), processes))
        flags["xla_disable_hlo_passes"] += f",{TREE_REDUCTION}"
        flags[CONCURRENT_SCHEDULER] = "false"
    added = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def device_count(experiment: Experiment, cores: int, processes: int = 1) -> int:
    """Of each process: as many as the cores carry of those over which mesh and rows divide."""
    asked = max(1, math.prod(size for size in vars(experiment.mesh).values() if size))
    if 0 not in vars(experiment.mesh).values():
        return max(1, min(asked // processes, cores))
    rows = experiment.batch_size // max(1, experiment.microbatches)
    fits = [n for n in range(1, cores + 1) if n * processes % asked == 0 and rows % (n * processes) == 0]
    return max(fits, default=cores)


def resolve(experiment: Experiment, devices: int) -> Experiment:
    """Where nothing else is asked: layers unrolled, many steps a dispatch, the batch over the cores."""
    e, mesh = experiment, experiment.mesh
    dispatch = e.steps_per_dispatch or STEPS_PER_DISPATCH
    rows = e.batch_size // e.microbatches
    if (mesh.replica, mesh.data) == (1, 0) and rows % devices == 0:
        mesh = replace(mesh, replica=0, data=1)  # parameters whole on each core: nothing to gather
    layers = "unroll" if e.execution.layers == "auto" else e.execution.layers
    return replace(e, steps_per_dispatch=dispatch, mesh=mesh, execution=replace(e.execution, layers=layers))


def decoding_execution(execution: Execution) -> Execution:
    """Matrices as they are read fastest (a fifth to a quarter more tokens a second than inputs first), and a cache that
    is not copied at every token."""
    return replace(execution, transposed=True, kernel="cached" if execution.kernel == "auto" else execution.kernel)


def rewrite_step(function):
    """A step with barriers behind what is read more than once (launch/machine/cpu/barriers.py)."""
    from launch.machine.cpu import barriers  # imports JAX, which must not be imported before set_flags

    return barriers.with_barriers(function)
