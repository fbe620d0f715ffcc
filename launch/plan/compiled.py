"""Compiles a config for a set of devices, and reads its memory, work and time off the compiler's answer.

launch/plan/page.py prints the Plan, launch/plan/search.py compares several.
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
from train.config import Experiment
from train.objective import training_flops
from train.program import Program
from train.run import count_parameters

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Plan:
    """What is known of an experiment before it runs. Bytes and FLOPs are those of one device in one step.

    `step_time`: None where the program does not fit, or is not for a TPU. `flops`: None where the compiler refused the
    program before they could be counted.
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
    step_time: StepTime | None
    compile_seconds: float
    peak_flops: float | None
    compiler: dict[str, str | None]  # versions, by library
    text: str

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.usable_bytes

    @property
    def rest_bytes(self) -> float:
        """Bytes of activations, gradients and whatever else a step needs."""
        return max(0.0, self.peak_bytes - self.parameter_bytes - self.optimizer_bytes)

    @property
    def seconds(self) -> float | None:
        return self.step_time.total if self.step_time else None

    @property
    def tokens(self) -> int:
        """Tokens of a step, of all devices."""
        return self.experiment.batch_size * self.experiment.data.length

    @property
    def utilization(self) -> float | None:
        """The share of the devices' peak that the model's own FLOPs take (MFU); None where the time is not known."""
        return self.model_flops / self.seconds / self.peak_flops if self.seconds and self.peak_flops else None


def compile_plan(experiment: Experiment, devices: list) -> Plan:
    """Compiles the step that `skald train` would run on these devices.

    Raises ShardingError and KernelError as training would, and UnreadableProgram.
    """
    program = auto.make_program(experiment, devices)
    program.check_fits()
    start = time.perf_counter()
    lowered = program.lower()
    try:
        executable, refused = lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        executable, refused = None, refused_bytes(str(error))
        if refused is None:
            raise
    seconds = time.perf_counter() - start
    return read_plan(program, devices, lowered, executable, refused, seconds)


def read_plan(program: Program, devices: list, lowered, executable, refused: float | None, seconds: float) -> Plan:
    """The plan of a compiled program. `refused`: the bytes that were too much, where there is no `executable`."""
    e, device = program.experiment, devices[0]
    state = program.abstract_state
    tpu = chips.TPUS.get(chips.generation(device.device_kind) or "")
    peak = executable.memory_analysis().peak_memory_in_bytes if executable else refused
    step_time, flops, text = None, None, program_text(executable) if executable else ""
    if executable and tpu:
        step_time = estimate.estimate(text, Machine.of(tpu, list(program.mesh.devices.flat)))
        flops = step_time.flops
    if executable and not tpu:  # other compilers leave calls into libraries: the traced program's products
        flops = products.traced_flops(lowered.as_text(dialect="hlo"))
        flops = flops and flops / len(devices)
    return Plan(
        experiment=e,
        mesh=dict(program.mesh.shape),
        devices=len(devices),
        chips=chips.count_chips(devices),
        peak_bytes=peak,
        usable_bytes=chips.memory(device),
        parameter_bytes=bytes_on_device((state.model, state.average, state.frozen)),
        optimizer_bytes=bytes_on_device(state.optimizer),
        parameters=count_parameters(state.evaluation_model),
        model_flops=step_flops(e) / len(devices),
        flops=flops,
        step_time=step_time,
        compile_seconds=seconds,
        peak_flops=chips.PEAK.get(device.device_kind),
        compiler=versions(device.platform),
        text=text,
    )


def step_flops(e: Experiment) -> float:
    return training_flops(e) * e.batch_size * e.data.length


def bytes_on_device(tree) -> float:
    """Bytes of a tree of abstract arrays on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def refused_bytes(message: str) -> float | None:
    """Bytes of its main memory that a program would have used, by the words of the compiler that refused it; None where
    it was refused for something else."""
    amount = r"([0-9.]+)([KMGT]?)"
    match = re.search(f"Used {amount} of [0-9.]+[KMGT]? hbm", message)
    match = match or re.search(rf"\({amount}\) exceeds available HBM", message)
    return float(match[1]) * UNITS[match[2]] if match else None
