"""`skald quality RUN`: quality and diversity of what a checkpoint writes in many settings, beside what people wrote."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from launch.commands.progress import ProgressReport
from launch.commands.quality_words import quality_in_words
from launch.inference.checkpoint import DescribedCheckpoint, LoadedCheckpoint
from launch.inference.stored_sampler import forget_sampler, store_sampler
from launch.quality.evaluation import Options, measure_quality
from launch.quality.grid import SHIPPED, read_grid
from launch.quality.scoring import ScoringOptions
from train.quality.gate import describe_failure
from train.run import RunError

LIVE_SECONDS, LINE_SECONDS = 0.5, 10.0  # between lines of progress: on a terminal, and elsewhere


def main(arguments: Namespace) -> int:
    if arguments.forget:
        return forget(DescribedCheckpoint(arguments.run), arguments.json)
    grid = read_grid(
        Path(arguments.grid) if arguments.grid else SHIPPED / f"{'quick' if arguments.quick else 'default'}.toml"
    )
    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    report = ProgressReport()
    result = measure_quality(
        run, grid, options(arguments), report, LIVE_SECONDS if report.on_terminal else LINE_SECONDS
    )
    print(json.dumps(result, ensure_ascii=False) if arguments.json else quality_in_words(run.name, result))
    may_ask = not (arguments.json or arguments.gate)
    if arguments.store or (may_ask and should_ask(run, result) and ask(run, result)):
        store(run, result)
    if arguments.gate:
        check_gate(run, result)
    return 0


def options(arguments: Namespace) -> Options:
    scoring = ScoringOptions(
        arguments.judge,
        arguments.shuffles,
        not arguments.no_novelty,
        arguments.crows_pairs,
        arguments.memorization,
        arguments.toxic_words,
    )
    only_default = arguments.gate and not (arguments.grid or arguments.quick)
    return Options(arguments.text, arguments.prompts, arguments.prompt_tokens, arguments.new_tokens, arguments.seed,
                   only_default, scoring)  # fmt: skip


def should_ask(run: LoadedCheckpoint, result: dict) -> bool:
    """Whether a person is there who can say whether to store another sampler than the default."""
    recommended = result["recommended"]
    is_other = recommended is not None and recommended["setting"] != result["default"]
    return is_other and sys.stdin.isatty() and sys.stderr.isatty()


def ask(run: LoadedCheckpoint, result: dict) -> bool:
    print(
        f"make {result['recommended']['setting']!r} the default sampler of {run.name}? [y/N] ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def store(run: LoadedCheckpoint, result: dict) -> None:
    """Stores what is recommended as the checkpoint's default sampler. Raises RunError where nothing is."""
    if result["recommended"] is None:
        raise RunError(f"{run.name}: no sampler is recommended, and none is stored")
    sampler, folder = result["recommended"]["setting"], run.folder.parents[1]
    store_sampler(folder, run.step, run.digest, sampler)
    print(
        f"{run.name} at step {run.step}: the default sampler is {sampler!r} now (before: {run.sampler!r}); "
        f"skald quality {run.name} --forget takes that back",
        file=sys.stderr,
    )


def forget(run: DescribedCheckpoint, as_json: bool) -> int:
    """Takes a stored sampler back."""
    sampler = forget_sampler(run.folder.parents[1], run.step, run.digest)
    if as_json:
        print(json.dumps({"step": run.step, "forgotten": sampler, "sampler": run.config_sampler}))
    elif sampler is None:
        print(f"{run.name} at step {run.step}: no sampler was stored; the default is {run.config_sampler!r}")
    else:
        print(f"{run.name} at step {run.step}: the default sampler is {run.config_sampler!r} again, not {sampler!r}")
    return 0


def check_gate(run: LoadedCheckpoint, result: dict) -> None:
    """Raises RunError where the default sampler's texts leave the interval that human text spans."""
    found, name = result["gate"], f"{run.name} at step {run.step}, {result['default'] or 'the model as it is'}"
    if found is None:
        raise RunError(f"{name}: could not be compared with human text")
    if not found["passed"]:
        raise RunError(f"{name}: {describe_failure(found)}")
    print(f"{name}: within what human text spans, in all {len(found['measures'])} measures", file=sys.stderr)
