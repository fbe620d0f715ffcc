"""What a config leaves to be chosen (`auto`, 0), chosen for the devices: number format, remat policy, CPU's mesh.

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

LEAST_FIRST = ("none", "minimal", "save_qkv", "full")  # remat policies, by what they recompute
ROOM = 0.95  # of a device's memory that a choice by arithmetic may fill


def make_program(experiment: Experiment, devices: list | None = None) -> Program:
    """The steps of an experiment as they run best on these devices, which need not be here; None: on those that are."""
    import jax  # after prepare, as all that imports it

    from launch.machine import flags
    from train.program import Program

    one = devices[0] if devices else jax.local_devices()[0]
    devices = devices or jax.devices()
    rewritten = {"tuned": cpu_tuning().rewrite_step} if one.platform == "cpu" and cpu_tuning() else {}
    return Program(resolve(experiment, one, len(devices)), devices, options=flags.compiler_options(one), **rewritten)


def resolve(experiment: Experiment, one, count: int) -> Experiment:
    """The experiment with what it leaves open chosen for `count` devices like this one, which is this process's own."""
    if one.platform == "cpu" and cpu_tuning():
        experiment = cpu_tuning().resolve(experiment, count)
    experiment = replace(experiment, execution=resolve_auto(experiment.execution, one.platform))
    remat = experiment.execution.remat
    remat = choose_remat(experiment, count, chips.memory(one)) if remat == "auto" else remat
    return replace(experiment, execution=replace(experiment.execution, remat=remat))


def choose_remat(experiment: Experiment, devices: int, memory: float) -> str:
    """The remat policy that recomputes least of those that fit into a device's memory, by arithmetic (model/cost.py).

    Raises ShardingError where the mesh is none of so many devices.
    """
    from model.sharding import mesh_shape  # after prepare: it imports JAX

    e, shape = experiment, mesh_shape(vars(experiment.mesh), devices)

    kept, rows = optimizer_numbers(e), e.batch_size // e.microbatches

    def fits(remat: str) -> bool:
        execution = replace(e.execution, remat=remat)
        size = cost.estimate_memory(e.model, execution, shape, rows, e.data.length, kept, e.microbatches > 1)
        return size.total <= ROOM * memory

    return next(filter(fits, LEAST_FIRST), LEAST_FIRST[-1])


def optimizer_numbers(experiment: Experiment) -> float:
    """How many numbers the optimizer keeps for every parameter, and the average of weights with it: by the state's own
    shapes."""
    import jax  # after prepare, as what imports it

    from train import state

    def count(tree) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    made = jax.eval_shape(lambda: state.create_state(experiment))
    return (count(made.optimizer) + count(made.average)) / count(made.model)


def resolve_auto(execution: Execution, platform: str) -> Execution:
    """Where the config leaves it open: the number format that such devices multiply fastest, and one layer compiled."""
    open_ones = {"dtype": "float32" if platform == "cpu" else "bfloat16", "layers": "scan"}
    return replace(execution, **{n: value for n, value in open_ones.items() if getattr(execution, n) == "auto"})


def decoding_execution(execution: Execution) -> Execution:
    """How a checkpoint's model computes on this machine: the kernel its config names was that of the training's."""
    import jax  # after prepare

    execution = replace(resolve_auto(execution, jax.default_backend()), remat="none", kernel="auto")
    return cpu_tuning().decoding_execution(execution) if jax.default_backend() == "cpu" and cpu_tuning() else execution
