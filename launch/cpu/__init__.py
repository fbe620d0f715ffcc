"""What makes training and writing fast on a CPU, and nothing else: delete this folder and only speed changes.

launch/machine.py calls it where it is there. Figures: README, "Speed".
"""

from __future__ import annotations

import os
from dataclasses import replace

from train.config import Experiment

STEPS_PER_DISPATCH = 20  # a call's fixed cost is shared by so many steps
PASSES = ("cse_barrier_expander", "tree_reduction_rewriter")  # the first drops barriers before fusion, the second
# splits a sum over rows into many small ones


def set_flags(purpose: str) -> None:
    """One XLA device a core for training; what the user's own XLA_FLAGS say stays."""
    given = os.environ.get("XLA_FLAGS", "")
    flags = {}
    if purpose == "train":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        flags = {"xla_force_host_platform_device_count": str(cores), "xla_disable_hlo_passes": ",".join(PASSES)}
    added = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def fitted(experiment: Experiment, devices: int) -> Experiment:
    """Layers unrolled, many steps a dispatch, and where nothing else is asked of the mesh, the batch over the cores."""
    e, mesh = experiment, experiment.mesh
    dispatch = e.steps_per_dispatch or STEPS_PER_DISPATCH
    rows = e.batch_size // e.microbatches
    if (mesh.replica, mesh.data) == (1, 0) and rows % devices == 0:
        mesh = replace(mesh, replica=0, data=1)  # parameters whole on each core: nothing to gather
    return replace(e, steps_per_dispatch=dispatch, mesh=mesh, execution=replace(e.execution, layers="unroll"))


def tuned(function):
    """A step with barriers behind what is read more than once (launch/cpu/barriers.py)."""
    from launch.cpu import barriers  # imports JAX, which must not be imported before set_flags

    return barriers.held(function)
