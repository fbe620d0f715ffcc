"""What makes training and writing fast on a CPU, and nothing else: delete this file and only speed changes.

launch/machine.py calls it where it is there. Figures: README, "Speed".
"""

from __future__ import annotations

import os
from dataclasses import replace

from train.config import Experiment

STEPS_PER_DISPATCH = 20  # a call's fixed cost is shared by so many steps


def set_flags(purpose: str) -> None:
    """One XLA device a core, and the faster library for matmuls; what the user's XLA_FLAGS say stays."""
    given = os.environ.get("XLA_FLAGS", "")
    devices = len(os.sched_getaffinity(0)) if purpose == "train" and hasattr(os, "sched_getaffinity") else 1
    flags = {
        "xla_force_host_platform_device_count": str(devices),
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    }
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
