"""`skald train CONFIG`: opens a run, puts the listeners round the loop, and trains to the end or a signal."""

from __future__ import annotations

import functools
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from data.config import Source
from data.pipeline import open_pipeline
from data.tokenizers.tokenizer import build_tokenizer
from launch import VERSION, experiments
from launch.commands.inheritance import inherit, inherited_tokenizer, settings_on_top
from launch.commands.run_folder import check_same_origin, check_same_run, check_same_start, claim_folder
from launch.commands.training_card import card_listener
from launch.inference.tasks.training import TrainingTasks
from launch.inference.text import check_samples, training_samples
from launch.machine import auto, chips
from launch.machine.detection import cache_folder, process_seconds
from launch.machine.energy import EnergyMeter
from launch.quality.training import TrainingDistance
from model.config import Model
from model.kernels.proof import prove
from train import failure_link, fields, processes
from train.base import read_base, read_model, write_base
from train.check import cautions, check, check_vocabulary
from train.checkpoint import Checkpoints, check_weights_fit, model_config
from train.checkpoint_folder import CheckpointRef, checkpoint_in, find_checkpoint, published_steps, read_metadata
from train.compilation import CompileTimer
from train.config import Experiment
from train.goodput import Account
from train.listeners.best import BestCheckpoint
from train.listeners.card import CardFile, Timed
from train.listeners.checkpoints import CheckpointSaver
from train.listeners.console import ConsoleProgress
from train.listeners.evaluation import evaluation
from train.listeners.finite import check_finite
from train.listeners.human_distance import HumanDistanceStop
from train.listeners.metrics import MetricsFile
from train.listeners.preemption import Preemption
from train.listeners.samples import Samples
from train.listeners.tensorboard import TensorBoard
from train.loop import train
from train.objective import make_objective, training_flops
from train.run import Run, RunError, check_data, write_config
from train.state import TrainState

STOPPED = 75  # exit status: stopped by a signal, after a checkpoint was saved


def main(arguments: Namespace) -> int:
    folder = Path(arguments.run_dir) if arguments.run_dir else experiments.default_folder(arguments.config)
    settings = settings_on_top(arguments.set)
    run, checkpoints = open_run(arguments.experiment, folder, report, arguments.start_from, settings)
    try:
        reason = train(run)
    finally:
        run.close()
    checkpoints.close()
    failure_link.disconnect()
    if arguments.json and processes.index() == 0:
        last = run.scores.get(run.step, {})
        print(json.dumps({"step": run.step, "run": str(folder), "reason": reason, **last}))
    return STOPPED if run.stop and not run.finished else 0


def report(line: str) -> None:
    """Prints a line on standard error, from process 0 alone."""
    if processes.index() == 0:
        print(line, file=sys.stderr)


def open_run(
    experiment: Experiment, folder: Path, report, start_from: str | None = None, settings: Sequence[str] = ()
) -> tuple[Run, Checkpoints]:
    """Opens the run in `folder` with all its listeners: at its newest checkpoint, or at step 0.

    A run that starts from another's weights, or once did, takes over the model and the tokenizer that belong to them;
    `settings` are applied on top of them.

    Every check that needs no device comes first; only then is the folder made or written to. What processes could see
    differently (checkpoints, the saved config), process 0 reads for all. Raises ConfigError, RunError, DataError,
    CheckpointError, ShardingError, KernelError.
    """
    account = Account(process_seconds())
    compiler = CompileTimer(account.add_compilation)
    if folder.is_file():
        raise fields.ConfigError(f"{folder} is a file; --run-dir names a folder")
    check_same_start(experiment, start_from, settings)
    source, before = starting_point(experiment, folder, start_from)
    tokenizer = None
    started_from = str(source.folder.absolute()) if source else before.get("started_from") if before else None
    if start_from or started_from:
        theirs = model_config(source) if source else fields.from_json(Model, before["model"])
        experiment = inherit(experiment, before, theirs, settings, report)
        tokenizer = inherited_tokenizer(before, experiment.data.tokenizer)
    check(experiment)
    for line in cautions(experiment):
        report(line)
    if not experiment.model.vocab_size:
        tokenizer = tokenizer or build_tokenizer(experiment.data.tokenizer, training_sources(experiment), report)
        experiment = replace(experiment, model=replace(experiment.model, vocab_size=tokenizer.vocab_size))
    processes.broadcast_from_first(lambda: check_same_run(experiment, folder))
    meter = EnergyMeter(jax.local_devices(), experiment.energy)
    inputs = (experiment.data, experiment.batch_size, experiment.seed, cache_folder(), tokenizer, report)
    with account.spending("data"):
        data = processes.first_then_others(lambda: open_pipeline(*inputs))
    if processes.broadcast_from_first(lambda: data.fingerprints) != data.fingerprints:
        raise RunError(f"{experiment.data.parts[0].source.path}: this machine has another text there than process 0's")
    data.check_steps(experiment.steps)
    check_vocabulary(experiment, data.tokenizer.vocab_size)
    longest = trained_length(experiment, before)
    check_samples(experiment, data.tokenizer, longest)
    tasks = TrainingTasks(experiment, data.tokenizer, longest)
    distance = TrainingDistance(experiment, data, longest, report)
    if source:
        check_weights_fit(source, experiment.model)
    run = Run(auto.make_program(experiment), folder, data)
    run.program.check_fits()
    with jax.set_mesh(run.mesh):
        prove(run.experiment.model, run.experiment.execution, experiment.data.length)
    run.lease = claim_folder(folder)  # kept as long as the run
    # Again: another first start may have been a moment ahead.
    for line in processes.broadcast_from_first(lambda: check_same_run(experiment, folder)):
        report(f"changed since the run began: {line}")
    checkpoints = Checkpoints(folder, experiment.checkpoints.keep_last, experiment.checkpoints.keep_best)
    run.state = first_state(run, checkpoints, source, report)
    run.step = int(run.state.step)
    stored = fields.to_json(experiment)
    processes.broadcast_from_first(lambda: write_config(folder, VERSION, stored, started_from))
    metadata = {
        "version": VERSION,
        "model": stored["model"],
        "config": stored,
        "tokenizer": data.tokenizer.to_json(),
        "data": data.fingerprints,
        "trained_length": longest,
        "started_from": started_from,
        "huggingface": before["huggingface"] if before else None,
    }
    card = card_listener(run, metadata, account, compiler, meter, report)
    run.listeners = listeners(run, checkpoints, metadata, (tasks.scores, distance.scores), card)
    return run, checkpoints


def starting_point(
    experiment: Experiment, folder: Path, start_from: str | None
) -> tuple[CheckpointRef | None, dict | None]:
    """The checkpoint whose weights a new run starts from, None without; and what it says of itself, or where the run
    goes on what its newest one says."""
    steps = processes.broadcast_from_first(lambda: published_steps(folder))
    processes.broadcast_from_first(lambda: check_same_origin(folder, start_from))
    if steps:
        return None, checkpoint_in(folder / "checkpoints" / str(steps[-1])).metadata
    if not start_from:
        check_needs_no_weights(experiment)
        return None, None
    source = checkpoint_in(Path(processes.broadcast_from_first(lambda: str(find_checkpoint(start_from).folder))))
    return source, source.metadata


def check_needs_no_weights(experiment: Experiment) -> None:
    """Raises ConfigError where an experiment makes no sense from random weights."""
    if experiment.lora:
        raise fields.ConfigError("lora: adapters on random weights teach nothing; name the run to adapt, as --from RUN")
    if make_objective(experiment).keeps_reference:
        raise fields.ConfigError(
            f"objective: {type(experiment.objective).__name__} from random weights teaches nothing; name the run to "
            "tune, as --from RUN"
        )


def training_sources(experiment: Experiment) -> list[Source]:
    return [part.source for part in experiment.data.parts]


def trained_length(experiment: Experiment, metadata: dict | None) -> int:
    """Tokens of the longest rows that the weights have been trained on, in this run or before it.

    `metadata`: of the checkpoint that the run goes on or starts from; None where there is none.
    """
    before = metadata["trained_length"] if metadata else 0
    return min(experiment.model.context, max(experiment.data.length, before))


def first_state(run: Run, checkpoints: Checkpoints, source, report) -> TrainState:
    """The state to begin with: the newest checkpoint's, else a new one, with the weights of `source` where given.

    What it has frozen is stored beside the checkpoints, once."""
    for step in processes.broadcast_from_first(lambda: published_steps(run.folder)[-1:]):
        check_data(read_metadata(run.folder, step)["data"], run.data.fingerprints, run.folder)
    restored = checkpoints.restore_newest(run.program.abstract_state, report)
    if restored:
        step = int(restored.step)
        report(f"going on from step {step}")
        scores = read_metadata(run.folder, step)["scores"]
        run.scores = {step: scores} if scores else {}
        frozen = run.program.abstract_state.frozen
        return restored if frozen is None else restored._replace(frozen=read_base(run.folder, frozen))
    if source is None:
        return run.create_state()
    report(f"starting from the weights of {source.folder}")
    with jax.set_mesh(run.mesh):
        weights = read_model(source, run.program.abstract_model)
    state = run.create_state(weights)
    if state.frozen is not None:
        write_base(run.folder, state.frozen)
    return state


def listeners(run: Run, checkpoints: Checkpoints, metadata: dict, scorers: Sequence[Callable], card: CardFile) -> list:
    """The run's listeners, in the order in which they hear each event.

    Guards come first, then evaluation, samples, metrics, and saving after all that it records. Listeners that write to
    the run's folder or to the terminal are process 0's alone. `metadata`: what every checkpoint stores of the run.
    `scorers`: what an evaluation adds to the losses.
    """
    e, device = run.experiment, run.mesh.devices.flat[0]
    peak = chips.PEAK.get(device.device_kind)
    peak = peak * run.mesh.devices.size if peak else None  # FLOP/s of all devices
    flops = training_flops(e)
    first = processes.index() == 0
    samples = Samples(
        run.folder / "samples",
        lambda model, e: training_samples(model, e, run.data.tokenizer, metadata["trained_length"]),
    )
    heard_by = [
        check_finite,
        Timed(card.account, "evaluation", functools.partial(evaluation, scorers=scorers)),
        Timed(card.account, "evaluation", samples),
        first and MetricsFile(run.folder / "metrics.jsonl", peak),
        first and TensorBoard(run.folder / "tensorboard"),
        Timed(card.account, "save", CheckpointSaver(checkpoints, metadata)),
        HumanDistanceStop(report),
        first and ConsoleProgress(lambda speed: speed * flops / peak if peak else None),
        card,
        first and BestCheckpoint(report),
        Preemption(),  # last: it handles signals until everything is saved
    ]
    return [listener for listener in heard_by if listener]
