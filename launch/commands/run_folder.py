"""The folder of a run as `skald train` finds it: another run's, another's weights, or in another trainer's hands?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train import fields, processes
from train.attempts import FILE as CARD
from train.attempts import read_attempts
from train.checkpoint_folder import published_steps, read_metadata
from train.config import Experiment
from train.lease import Lease, check_shared
from train.listeners.metrics import read_metrics
from train.run import RunError, check_identity, check_origin, is_path, read_config, read_config_file


def check_same_origin(folder: Path, start_from: str | None) -> None:
    """Raises RunError where the folder holds a run that began with other weights than those of `start_from`."""
    steps = published_steps(folder)
    saved = read_metadata(folder, steps[-1]) if steps else read_config_file(folder)
    if saved:  # without a checkpoint it was stopped before its first one
        check_origin(folder, saved, start_from, goes_on=bool(steps))


def check_same_run(experiment: Experiment, folder: Path) -> list[str]:
    """Checks that a folder holds this run or none. Returns a line for each setting that differs and may.

    Raises RunError where the folder holds another run, files of a run without a checkpoint to go on from, or a file in
    place of its card.
    """
    read_attempts(folder / CARD)
    steps = published_steps(folder)
    saved = read_config(folder) or (read_metadata(folder, steps[-1])["config"] if steps else None)
    if steps and not (folder / "checkpoints" / str(steps[-1]) / "optimizer").is_dir():
        raise RunError(
            f"{folder} was imported, not trained; start a new run from it: --from {folder} --run-dir another"
        )
    lines = [] if steps else read_metrics(folder / "metrics.jsonl")
    if saved is None and lines:
        raise RunError(f"{folder} holds a metrics.jsonl and no run; take another --run-dir")
    if saved and len(lines) > 2 * saved["checkpoints"]["every"]:  # by then one checkpoint at least was complete
        raise RunError(
            f"{folder}: metrics.jsonl goes to step {lines[-1]['step']} and no whole checkpoint is there; put one back, "
            f"or move the folder away to begin anew"
        )
    return check_identity(saved, experiment, folder) if saved else []


def check_same_start(experiment: Experiment, start_from: str | None, settings: Sequence[str]) -> None:
    """Raises RunError where this process was started with another config, --from or --set than process 0."""
    mine = {"--from": start_from, "--set": list(settings)}
    theirs, options = processes.broadcast_from_first(lambda: [fields.to_json(experiment), mine])
    differ = [c for c in fields.differences(theirs, experiment) if not is_path(c[0])]
    differ += [(name, options[name], value) for name, value in mine.items() if options[name] != value]
    if differ:
        shown = "; ".join(f"{path}: {old!r} in process 0, {new!r} here" for path, old, new in differ[:8])
        raise RunError(f"the processes of this run were not started alike ({shown})")


def claim_folder(folder: Path) -> Lease | None:
    """Makes the run's folder and takes its lease, in process 0; the others check that they see the same folder.

    Returns the lease in process 0, None in the others. Raises RunError where the folder can't be written, is held by
    another trainer, or is not shared by all processes.
    """
    lease = None
    if processes.index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lease = Lease(folder)
        except OSError as error:
            raise RunError(f"{folder}: can't write there ({error.strerror}); take another --run-dir") from None
    holder = processes.broadcast_from_first(lambda: lease.holder)
    if lease is None:
        check_shared(folder, holder)
    return lease
