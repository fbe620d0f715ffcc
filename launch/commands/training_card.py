"""Makes the listener that keeps RUN/card.json, with what launch/ knows of the machine. `skald train` calls it."""

from __future__ import annotations

from collections.abc import Callable

import jax

from launch.machine import chips
from launch.machine.energy import EnergyMeter
from launch.machine.processor import processor
from model import cost
from train import processes
from train.attempts import FILE, settled_attempts
from train.card import Facts
from train.compilation import CompileTimer
from train.goodput import Account
from train.listeners.card import CardFile, new_attempt
from train.objective import training_flops
from train.run import Run, count_parameters


def card_listener(
    run: Run,
    metadata: dict,
    account: Account,
    compiler: CompileTimer,
    meter: EnergyMeter,
    report: Callable[[str], None],
) -> CardFile:
    """The card of a run that stands at `run.step`. `metadata`: what its checkpoints store of it. `meter`: of this
    process's devices, from the moment they were known.

    Raises RunError where the folder holds another file of this name.
    """
    e, parameters = run.experiment, count_parameters(run.state.evaluation_model)
    facts = Facts(
        run=run.folder.name,
        version=metadata["version"],
        parameters=parameters,
        active_parameters=parameters - cost.inactive_parameters(e.model),
        flops=training_flops(e),
        data=metadata["data"],
        experiment=e,
    )
    attempts = []
    if processes.index() == 0:
        attempts = settled_attempts(run.folder, run.step, e.batch_size * e.data.length)
        counted_from = meter.started - account.opened
        attempts.append(new_attempt(run.lease.attempt, run.step, describe_devices(run), account, counted_from))

    def close() -> None:
        meter.close()
        compiler.close()

    return CardFile(run.folder / FILE, facts, account, attempts, meter.reading, program_flops, report, close)


def program_flops(run: Run) -> float | None:
    """FLOPs of a step by its traced program, which JAX keeps; None where a loop's turns are not known."""
    from launch.plan.products import traced_flops  # here: most starts of a run need not wait for it

    steps = run.count_from(0)
    with jax.set_mesh(run.mesh):
        lowered = run.program.train_steps.lower(run.program.abstract_state, run.program.abstract_rows(steps))
    total = traced_flops(lowered.as_text(dialect="hlo"))
    return total and total / steps


def describe_devices(run: Run) -> dict:
    """The devices of the run's mesh, as an Attempt has them."""
    devices = list(run.mesh.devices.flat)
    kind = devices[0].device_kind
    peak = chips.PEAK.get(kind)
    return {
        "kind": kind,
        "count": len(devices),
        "platform": devices[0].platform,
        "chips": chips.count_chips(devices),
        "rated_watts": chips.RATED_WATTS.get(kind),
        "peak_flops": peak and peak * len(devices),
        "processor": processor(),
    }
