"""Chooses for the devices what a config leaves open (`auto`, 0): number format, remat policy, the mesh on a CPU.

Training runs the step that `make_program` returns; launch/plan compiles the same one for devices that are not here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from launch.machine import chips
from launch.machine.tuning import cpu_tuning
from model import cost
from model.config import Execution
from train.config import Experiment

if TYPE_CHECKING:
    from train.program import Program

REMAT_POLICIES = ("none", "minimal", "save_qkv", "full")  # from the one that recomputes least
MEMORY_SHARE = 0.95  # of a device's memory that a choice by arithmetic may fill


def make_program(experiment: Experiment, devices: list | None = None) -> Program:
    """The training program of an experiment as it runs best on `devices`, which may be of another machine.

    None: this machine's own devices.
    """
    import jax  # only now, after setup.prepare: so for all that imports it

    from launch.machine import flags
    from train.program import Program

    device = devices[0] if devices else jax.local_devices()[0]
    devices = devices or jax.devices()
    experiment = resolve(experiment, device, len(devices))
    rewrites = {"rewrite": cpu_tuning().rewrite} if device.platform == "cpu" and cpu_tuning() else {}
    return Program(experiment, devices, options=flags.compiler_options(device), **rewrites)


def resolve(experiment: Experiment, device, count: int) -> Experiment:
    """The experiment with everything it leaves open chosen for `count` devices like this one."""
    if device.platform == "cpu" and cpu_tuning():
        experiment = cpu_tuning().resolve(experiment, count)
    else:
        experiment = replace(experiment, execution=replace(experiment.execution, precision="default"))
    experiment = replace(experiment, execution=resolve_auto(experiment.execution, device.platform))
    remat = experiment.execution.remat
    remat = choose_remat(experiment, count, chips.memory(device)) if remat == "auto" else remat
    return replace(experiment, execution=replace(experiment.execution, remat=remat))


def choose_remat(experiment: Experiment, devices: int, memory: float) -> str:
    """The remat policy that recomputes least and still fits `memory` bytes a device, by arithmetic (model/cost.py).

    Raises ShardingError where the mesh does not fit so many devices.
    """
    from model.sharding import mesh_shape

    e, shape = experiment, mesh_shape(vars(experiment.mesh), devices)
    optimizer, rows = optimizer_numbers(e), e.batch_size // e.microbatches

    def fits(remat: str) -> bool:
        execution = replace(e.execution, remat=remat)
        size = cost.estimate_memory(e.model, execution, shape, rows, e.data.length, optimizer, e.microbatches > 1)
        return size.total <= MEMORY_SHARE * memory

    return next(filter(fits, REMAT_POLICIES), REMAT_POLICIES[-1])


def optimizer_numbers(experiment: Experiment) -> float:
    """How many numbers the state keeps besides each weight of the model: of the optimizer, the average, adapters and a
    reference model, from the shapes of the state."""
    import jax

    from train import state

    def count(tree) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    weights = count(jax.eval_shape(lambda: state.random_weights(experiment)))
    return count(jax.eval_shape(lambda: state.create_state(experiment))) / weights - 1


def resolve_auto(execution: Execution, platform: str) -> Execution:
    """Execution with `auto` replaced: the number format that the platform multiplies fastest, layers in a scan."""
    choices = {"dtype": "float32" if platform == "cpu" else "bfloat16", "layers": "scan"}
    return replace(execution, **{name: value for name, value in choices.items() if getattr(execution, name) == "auto"})


def decoding_execution(execution: Execution) -> Execution:
    """How a checkpoint's model is computed here. The kernel that its config names was for training."""
    import jax

    execution = replace(resolve_auto(execution, jax.default_backend()), remat="none", kernel="auto")
    return cpu_tuning().decoding_execution(execution) if jax.default_backend() == "cpu" and cpu_tuning() else execution
