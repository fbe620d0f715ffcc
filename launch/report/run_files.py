"""What a run's folder holds, for its page. Every file may be missing; one that is there must be right.

RUN names a folder, or one of its checkpoints: RUN@STEP, @latest, @best. Nothing here imports JAX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import VERSION
from launch.report.json_files import Part, read_json, read_lines
from launch.report.quality import Quality, read_quality
from train import fields
from train.checkpoint_folder import CheckpointError, find_checkpoint, published_steps, read_metadata
from train.config import Experiment


@dataclass(frozen=True)
class Sample:
    """What a run wrote at a step."""

    step: int
    text: str


@dataclass(frozen=True)
class TaskResults:
    """The results of a task's examples at a step, one an example."""

    step: int
    name: str
    file: str
    results: Sequence[Part]


@dataclass(frozen=True)
class RunFiles:
    """A run. `name`: what the page calls it, no other the same. `step`: the one that was named, or None. `experiment`:
    None where Skald did not train it.

    `metrics`: lines of metrics.jsonl, and `samples`: up to the step that was named; `card`: of the whole run.
    `checkpoint`: metadata of the newest checkpoint, or of the one that was named. `quality`: of the newest step that
    has it, or of the one that was named; `quality_steps`: all. `gate`: the file with the gate's result.
    """

    name: str
    folder: Path
    step: int | None
    experiment: Experiment | None
    version: str | None
    metrics: Sequence[Part]
    samples: Sequence[Sample]
    checkpoint: dict | None
    parameters: int | None
    quality: Quality | None
    quality_steps: Sequence[int]
    gate: Part | None
    card: Part | None
    evaluations: Sequence[Part]
    tasks: Sequence[TaskResults]

    def series(self, metric: str) -> tuple[list[float], list[float]]:
        """Tokens trained and the values of a metric, where it has any."""
        own = [(line["tokens"].number(), value.number()) for line in self.metrics if (value := line.get(metric))]
        return [tokens for tokens, _ in own], [value for _, value in own]

    def final(self, metric: str) -> float | None:
        """The last value of a metric, None where it has none."""
        return next((value.number() for line in reversed(self.metrics) if (value := line.get(metric))), None)

    def best(self, metric: str) -> float | None:
        """The smallest finite value of a metric."""
        return min(filter(math.isfinite, self.series(metric)[1]), default=None)


def read_runs(names: Sequence[str]) -> list[RunFiles]:
    """The runs. Raises CheckpointError where one is not there, DataError and ConfigError where a file is wrong."""
    places = [locate(name) for name in names]
    labels = distinct_names([folder for folder, _ in places], [step for _, step in places])
    return [read_run(label, *place) for label, place in zip(labels, places, strict=True)]


def locate(name: str) -> tuple[Path, int | None]:
    """A run's folder, and the step that was named."""
    folder = Path(name)
    if "@" in folder.name and not folder.exists():
        found = find_checkpoint(name)
        return found.folder.parents[1], found.step
    if not (folder / "config.json").is_file() and not published_steps(folder):
        if not folder.exists():
            raise CheckpointError(f"{folder}: no such folder; runs are made by skald train")
        raise CheckpointError(f"{folder}: no run: neither config.json nor a checkpoint in it")
    return folder, None


def distinct_names(folders: Sequence[Path], steps: Sequence[int | None]) -> list[str]:
    """A name for each run: its folder's own, with as many of the folders above it as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [
            "/".join(path.parts[-depth:]) + (f"@{step}" if step is not None else "")
            for path, step in zip(paths, steps, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]  # one run, named twice


def read_run(name: str, folder: Path, step: int | None) -> RunFiles:
    config = read_json(folder / "config.json")
    steps = published_steps(folder)
    at = step if step is not None else steps[-1] if steps else None
    checkpoint = read_metadata(folder, at) if at is not None else None
    stored = config["experiment"].value if config else checkpoint and checkpoint["config"]
    card = read_json(folder / "card.json")
    qualities = files_by_step(folder / "quality", "quality.json")
    shown = step if step is not None else max(qualities, default=None)
    measured = read_json(qualities[shown]) if shown in qualities else None
    last = math.inf if step is None else step
    version = config and config.get("version")
    version = version.text() if version else (checkpoint or {}).get("version")
    experiment = read_experiment(stored, config.file if config else str(folder), version) if stored else None
    return RunFiles(
        name=name,
        folder=folder,
        step=step,
        experiment=experiment,
        version=version,
        metrics=[line for line in read_metrics(folder / "metrics.jsonl") if line["step"].whole() <= last],
        samples=[sample for sample in read_samples(folder / "samples") if sample.step <= last],
        checkpoint=checkpoint,
        parameters=count_parameters(folder, at, card, experiment),
        quality=read_quality(measured) if measured else None,
        quality_steps=sorted(qualities),
        gate=read_gate(folder, measured, step),
        card=card,
        evaluations=read_lines(folder / "evaluations.jsonl"),
        tasks=read_tasks(folder / "tasks"),
    )


def read_gate(folder: Path, measured: Part | None, step: int | None) -> Part | None:
    """The file that has the gate's result: that of quality or, where it is newer, of `skald quality --gate` alone at
    the same step; where quality has none, that of the newest step, or of the one that was named."""
    files = files_by_step(folder / "quality", "gate.json")
    if measured and measured.get("gate"):
        own = Path(measured.file)
        alone = files.get(int(own.parent.name))
        return read_json(alone) if alone and alone.stat().st_mtime_ns > own.stat().st_mtime_ns else measured
    shown = step if step is not None else max(files, default=None)
    return read_json(files[shown]) if shown in files else None


def files_by_step(folder: Path, name: str) -> dict[int, Path]:
    """The files of this name in the folders that are named by a step; a person may have put others beside them."""
    return {int(file.parent.name): file for file in folder.glob(f"*/{name}") if is_step(file.parent.name)}


def is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def read_experiment(stored: dict, file: str, version: str | None) -> Experiment:
    try:
        return fields.from_json(Experiment, fields.with_current_names(stored))
    except fields.ConfigError as error:
        raise fields.ConfigError(f"{file}: {error} (made by Skald {version or 'of old'}, this is {VERSION})") from None


def read_metrics(file: Path) -> list[Part]:
    """The lines of metrics.jsonl, each with a step and tokens, in their order."""
    lines = read_lines(file)
    for line in lines:
        line["step"].whole(), line["tokens"].number()
    return sorted(lines, key=lambda line: line["tokens"].number())


def read_samples(folder: Path) -> list[Sample]:
    files = {int(file.stem): file for file in folder.glob("*.txt") if is_step(file.stem)}
    return [Sample(step, files[step].read_text(encoding="utf-8", errors="replace")) for step in sorted(files)]


def read_tasks(folder: Path) -> list[TaskResults]:
    found = []
    for file in sorted(folder.glob("*/*.jsonl")):
        if is_step(file.parent.name) and (results := read_lines(file)):
            found.append(TaskResults(int(file.parent.name), results[0]["task"].text(), str(file), results))
    return sorted(found, key=lambda task: (task.name, task.step))


def count_parameters(folder: Path, step: int | None, card: Part | None, experiment: Experiment | None) -> int | None:
    """The model's parameters: as the card says, else the numbers in a checkpoint's weights, by the shapes that Orbax
    wrote down. None where neither is there, or a checkpoint holds adapters alone."""
    if card and card.get("parameters"):
        return card["parameters"].whole()
    arrays = read_json(folder / "checkpoints" / str(step) / "model" / "_METADATA")
    if arrays is None or arrays.get("tree_metadata") is None or (experiment and experiment.lora):
        return None
    shapes = [array["value_metadata"].get("write_shape") for _, array in arrays["tree_metadata"].items()]
    if None in shapes:
        return None
    return sum(math.prod(size.whole() for size in shape.list()) for shape in shapes)
