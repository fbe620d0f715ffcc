"""Measures quality and diversity of what a checkpoint writes: texts of all settings, scores of them, quality.json.

launch/commands/quality.py and launch/api.py call `measure_quality`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from data.errors import DataError
from data.whole_file import whole_file
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.progress import Progress
from launch.inference.scoring import texts_to_score
from launch.machine.energy import EnergyMeter
from launch.quality.generation import TextWriter, missing_groups, write_human_texts, write_texts
from launch.quality.grid import Grid
from launch.quality.plan import Plan, helper_digests, text_conditions, with_default
from launch.quality.prompts import draw_places, start_tokens
from launch.quality.scores import SHARE, read_texts
from launch.quality.scoring import ScoringOptions, TextScorer
from launch.quality.texts_file import TextsFile
from model.decode.chain import format_chain, parse_chain
from train.card import record_generation
from train.energy import per_token
from train.fields import ConfigError
from train.quality.intervals import FEWEST

TEXTS, NOVELTY, RESULT, GATE_RESULT = "texts.jsonl", "novelty.jsonl", "quality.json", "gate.json"
LEAST_PROMPTS = math.ceil(FEWEST / SHARE)  # so that FEWEST texts are left where some end early
PROMPT_SHARE = 4  # of the model's context the prompt takes at most one such part where nobody says how much


@dataclass(frozen=True)
class Options:
    """What a person asks for. None: as the grid says, as far as the model's context goes.

    `text`: a file of held-out text; None: the run's validation split. `only_default`: only the default sampler's texts,
    for the gate. `scoring`: how they are scored.
    """

    text: str | None = None
    prompts: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    seed: int = 0
    only_default: bool = False
    scoring: ScoringOptions = field(default_factory=ScoringOptions)


def quality_folder(run: LoadedCheckpoint) -> Path:
    """The folder of a checkpoint's texts and figures. Raises DataError where it can't be made."""
    folder = run.folder.parents[1] / "quality" / str(run.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: can't write there ({error.strerror})") from None
    return folder


def make_plan(run: LoadedCheckpoint, grid: Grid, options: Options) -> Plan:
    """What is to be written. Raises ConfigError, DataError."""
    prompt_tokens, new_tokens = text_sizes(run, grid, options)
    count = options.prompts or grid.prompts
    if count < LEAST_PROMPTS:
        raise ConfigError(
            f"--prompts {count}: with fewer than {LEAST_PROMPTS} nothing can be said of a distance from human text"
        )
    texts = texts_to_score(run, options.text, None)
    drawn = draw_places(texts, run.tokenizer, count, prompt_tokens, new_tokens, options.seed, spare=count)
    places, others = drawn[:count], drawn[count:] if len(drawn) == 2 * count else []
    default = format_chain(parse_chain(run.sampler))
    settings = with_default(() if options.only_default else grid.settings, default)
    source = options.text or "the validation split"
    conditions = text_conditions(run), helper_digests(settings)
    return Plan(settings, default, places, others, prompt_tokens, new_tokens, options.seed, source, *conditions)


def text_sizes(run: LoadedCheckpoint, grid: Grid, options: Options) -> tuple[int, int]:
    """Tokens of a prompt, and of a text behind it. Raises ConfigError where both together exceed the model's context:
    no text is scored behind less than its whole prompt."""
    context = min(run.trained_length, run.model_config.context) - start_tokens(run.tokenizer)
    prompt_tokens = options.prompt_tokens or min(grid.prompt_tokens, max(1, context // PROMPT_SHARE))
    new_tokens = options.new_tokens or min(grid.new_tokens, max(1, context - prompt_tokens))
    if prompt_tokens + new_tokens > context:
        raise ConfigError(
            f"prompts of {prompt_tokens} tokens with {new_tokens} more behind them: {run.name} was trained on "
            f"{context} at a time; both together may be as many (--prompt-tokens, --new-tokens)"
        )
    return prompt_tokens, new_tokens


def plan_lines(plan: Plan, grid: Grid, done: int) -> list[str]:
    """What will be written, for a person who waits for it."""
    tokens = plan.texts * plan.new_tokens
    lines = [
        f"{len(plan.settings)} settings x {len(plan.places)} prompts x {plan.new_tokens} tokens: {plan.texts:,} texts, "
        f"{tokens:,} tokens at most" + (f"; {done:,} texts are written already" if done else "")
    ]
    budgets = grid.budgets
    if len(set(budgets.values())) > 1 and len(plan.settings) > 1:
        shown = ", ".join(f"{kind} {count}" for kind, count in budgets.items())
        lines.append(f"the kinds have unequal numbers of settings ({shown}): who has more of them tries more often")
    return lines


def write_plan(run: LoadedCheckpoint, plan: Plan, grid: Grid, file: TextsFile, reports: tuple) -> dict | None:
    """Writes what the file lacks of a plan, and says before what it will take. Returns the energy of it as JSON
    (train/energy.py, `per_token`), which it puts on the run's card, too; None where nothing was to be written. Raises
    what writing raises."""
    report, interval = reports
    writer = TextWriter(run, plan)
    groups = missing_groups(writer, plan, file)
    missing = sum(map(len, groups))
    for line in plan_lines(plan, grid, plan.texts - missing):
        report(line)
    write_human_texts(run, plan, file)
    if not missing:
        return None
    chains = [(writer.chain(group[0].setting), len(group)) for group in groups]
    rate = writer.measure()
    minutes = rate.seconds(chains, plan.new_tokens) / 60
    report(
        f"{minutes:.1f} minutes of writing at least: a first batch made {rate.tokens_per_second:,.0f} tokens/s, and "
        f"compiling {len(groups)} programs takes {rate.compile_seconds * len(groups):.0f} s of them"
    )
    progress = Progress("writing", "texts", plan.texts, plan.texts - missing, report, interval)
    with EnergyMeter(jax.devices()[:1], run.config and run.config.energy) as meter:
        write_texts(writer, groups, file, progress)
    report(f"{missing:,} texts, {progress.tokens:,} tokens in {progress.seconds:.1f} s")
    energy = per_token(meter.use(), progress.tokens)
    record_generation(run.folder.parents[1], energy)
    return energy


def measure_quality(
    run: LoadedCheckpoint, grid: Grid, options: Options, report: Callable[[str], None], interval: float = 10.0
) -> dict:
    """The content of quality.json, which it writes, too (GATE_RESULT with `only_default`). `interval`: seconds between
    lines of progress. Raises ConfigError, DataError, SamplerError, PromptError, CheckpointError, RunError."""
    plan = make_plan(run, grid, options)
    scorer = TextScorer(run, plan, options.scoring, report)
    folder = quality_folder(run)
    with contextlib.closing(TextsFile(folder / TEXTS)) as file:
        energy = write_plan(run, plan, grid, file, (report, interval))
        texts = read_texts(plan, file)
    result = scorer.result(texts, energy)
    if scorer.novelty_lines and not options.only_default:
        with whole_file(folder / NOVELTY) as out:
            out.write("".join(scorer.novelty_lines).encode("utf-8", "surrogatepass"))
    with whole_file(folder / (GATE_RESULT if options.only_default else RESULT)) as out:
        out.write(json.dumps(result, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")
    return result
