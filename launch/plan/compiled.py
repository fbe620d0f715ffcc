"""One config compiled for one set of devices, and what the compiler says of it: memory, work, time.

launch/plan/page.py prints it, launch/plan/search.py compares several.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import jax

from launch.machine import auto, chips
from launch.plan import estimate, products
from launch.plan.estimate import Machine, StepTime
from launch.plan.versions import program_text, versions
from model import cost
from train.config import Experiment
from train.program import Program
from train.run import count_parameters

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Plan:
    """What is known of an experiment on `devices` devices before it runs. Bytes and FLOPs are a device's, of one step.

    `spent` is None where the program does not fit, or is not for a TPU: then there is no time either. `flops` None:
    the program was refused before they could be counted.
    """

    experiment: Experiment
    mesh: dict[str, int]
    devices: int
    chips: int
    peak_bytes: float
    usable_bytes: float
    parameter_bytes: float
    optimizer_bytes: float
    parameters: int
    model_flops: float
    flops: float | None
    spent: StepTime | None
    compile_seconds: float
    peak_flops: float | None
    compiler: dict[str, str | None]  # versions, by library
    text: str

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.usable_bytes

    @property
    def rest_bytes(self) -> float:
        """Activations, gradients and whatever else lives in a step."""
        return max(0.0, self.peak_bytes - self.parameter_bytes - self.optimizer_bytes)

    @property
    def seconds(self) -> float | None:
        return self.spent.total if self.spent else None

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.experiment.batch_size * self.experiment.data.length

    @property
    def utilization(self) -> float | None:
        """Of the devices' peak, by the model's own FLOPs."""
        return self.model_flops / self.seconds / self.peak_flops if self.seconds and self.peak_flops else None


def compile_plan(experiment: Experiment, devices: list) -> Plan:
    """Compiles the step that `train` would run on these devices. Raises ShardingError and KernelError as it would, and
    UnreadableProgram."""
    program = auto.make_program(experiment, devices)
    program.check_fits()
    start = time.perf_counter()
    lowered = program.lower()
    try:
        built, refused = lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        built, refused = None, refused_bytes(str(error))
        if refused is None:
            raise
    seconds = time.perf_counter() - start
    return read_plan(program, devices, lowered, built, refused, seconds)


def read_plan(program: Program, devices: list, lowered, built, refused: float | None, seconds: float) -> Plan:
    """`refused`: bytes that were too much, where nothing was `built`."""
    e, one = program.experiment, devices[0]
    state = program.abstract_state
    tpu = chips.TPUS.get(chips.generation(one.device_kind) or "")
    peak = built.memory_analysis().peak_memory_in_bytes if built else refused
    spent, flops, text = None, None, program_text(built) if built else ""
    if built and tpu:
        spent = estimate.estimate(text, Machine.of(tpu, list(program.mesh.devices.flat)))
        flops = spent.flops
    if built and not tpu:  # other compilers leave calls into libraries: the traced program's products
        flops = products.traced_flops(lowered.as_text(dialect="hlo"))
        flops = flops and flops / len(devices)
    places = {(getattr(d, "slice_index", 0), *getattr(d, "coords", (d.id,))) for d in devices}
    return Plan(
        experiment=e,
        mesh=dict(program.mesh.shape),
        devices=len(devices),
        chips=len(places),
        peak_bytes=peak,
        usable_bytes=chips.memory(one),
        parameter_bytes=bytes_on_device(state.model) + bytes_on_device(state.average),
        optimizer_bytes=bytes_on_device(state.optimizer),
        parameters=count_parameters(state.model),
        model_flops=cost.training_flops(e.model, e.data.length) * e.batch_size * e.data.length / len(devices),
        flops=flops,
        spent=spent,
        compile_seconds=seconds,
        peak_flops=chips.PEAK.get(one.device_kind),
        compiler=versions(one.platform),
        text=text,
    )


def bytes_on_device(tree) -> float:
    """Bytes of a tree of abstract arrays on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def refused_bytes(message: str) -> float | None:
    """Bytes of its main memory that a program would have used, by the words of the compiler that refused it; None where
    it was refused for something else."""
    amount = r"([0-9.]+)([KMGT]?)"
    found = re.search(f"Used {amount} of [0-9.]+[KMGT]? hbm", message)
    found = found or re.search(rf"\({amount}\) exceeds available HBM", message)
    return float(found[1]) * UNITS[found[2]] if found else None
