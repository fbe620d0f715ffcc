"""`skald evaluate RUN OTHER`: the scores of a checkpoint, and how they differ from another's on the same examples."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from data.errors import DataError
from data.windows import ScoredText
from launch.commands.text_options import check_text_options, given_text_options
from launch.inference.checkpoint import DescribedCheckpoint, LoadedCheckpoint
from launch.inference.evaluation import TEXT_SCORES
from launch.inference.paired_results import compare_results, read_results
from launch.inference.paired_texts import PairedTexts
from launch.inference.results_folder import results_folder
from launch.inference.scoring import Evaluation, evaluate_texts
from launch.inference.tasks.evaluate import evaluate_tasks, prepare_tasks
from launch.inference.text_comparison import TextComparison
from train.checkpoint import stored_weights

SHOWN_TEXT = 60  # characters of an example
UNITS = {"loss": "nats a token", "bits_per_byte": "bits a byte"}


class Scores(NamedTuple):
    """What one checkpoint was found to score: on the texts, None where there are none, and on each task."""

    texts: Evaluation | None
    tasks: dict[str, dict]


def evaluate_pair(arguments: Namespace, report: Callable[[str], None], seconds: float) -> tuple[dict, Iterable[dict]]:
    """The JSON of `evaluate`, with `comparison`, and what `--examples` writes. One model at a time is in memory.
    `report` is given the progress of tasks, every so many `seconds`. Raises what `evaluate` and PairedTexts raise."""
    names = (arguments.run, arguments.other)
    run, other = (DescribedCheckpoint(name, arguments.weights, quantize=arguments.quantize) for name in names)
    check_text_options(arguments, run)
    pair = paired_texts(run, other, arguments, report)
    for checkpoint in (run, other):
        check_described(checkpoint, arguments)
    texts = [(pair.run_texts, pair.run_windows), (pair.other_texts, pair.other_windows)] if pair else [None, None]
    mine, theirs = (
        evaluate_described(checkpoint, own, arguments, report, seconds)
        for checkpoint, own in zip((run, other), texts, strict=True)
    )
    metrics = mine.texts.metrics if mine.texts else {"step": run.step, **dict.fromkeys(TEXT_SCORES)}
    comparison, examples = {"other": other.name, "step": other.step}, []
    if pair:
        of_texts = TextComparison(pair, mine.texts, theirs.texts)
        comparison, examples = of_texts.to_json(), of_texts.examples()
    comparison["tasks"] = {
        name: compare_results(*(read_results(side.tasks[name]["results"]) for side in (mine, theirs)))
        for name in mine.tasks
    }
    return {**metrics, "tasks": mine.tasks, "comparison": comparison}, examples


def paired_texts(
    run: DescribedCheckpoint, other: DescribedCheckpoint, arguments: Namespace, report: Callable[[str], None]
) -> PairedTexts | None:
    """The texts to compare; None where there are tasks, no option that goes with a text, and no validation text that
    both can score."""
    if arguments.tasks and arguments.text is None and run.config is None:
        return None
    try:
        return PairedTexts(run, other, arguments.text, arguments.window, arguments.stride, arguments.field)
    except DataError as error:
        if not arguments.tasks or given_text_options(arguments):
            raise
        report(f"the scores of the validation text are left out: {error}")
        return None


def check_described(checkpoint: DescribedCheckpoint, arguments: Namespace) -> None:
    """What can be said against scoring a checkpoint before its weights are read. Raises CheckpointError, and what
    prepare_tasks raises; DataError where its results can't be kept."""
    stored_weights(checkpoint.checkpoint, checkpoint.weights)
    prepare_tasks(checkpoint, arguments.tasks)
    if arguments.tasks:
        results_folder(checkpoint, arguments.results)


def evaluate_described(
    checkpoint: DescribedCheckpoint,
    texts: tuple[list[ScoredText], tuple[int, int]] | None,
    arguments: Namespace,
    report: Callable[[str], None],
    seconds: float,
) -> Scores:
    """Loads a checkpoint, the one that was described and no newer one, and scores it on texts and on tasks."""
    gc.collect()  # the decoder of the checkpoint before refers to itself: its weights would stay beside these
    name = f"{checkpoint.folder.parents[1]}@{checkpoint.step}"
    loaded = LoadedCheckpoint(name, checkpoint.weights, quantize=checkpoint.execution.quantize)
    prepared = prepare_tasks(loaded, arguments.tasks)
    found = evaluate_texts(loaded, texts[0], *texts[1]) if texts else None
    tasks = evaluate_tasks(loaded, prepared, arguments.results, report, seconds) if arguments.tasks else {}
    return Scores(found, tasks)


def comparison_in_words(run: str, comparison: dict) -> Iterator[str]:
    """What `evaluate --json` has under `comparison` as lines for a person."""
    yield f"against {comparison['other']} at step {comparison['step']}:"
    if "examples" in comparison:
        yield from texts_in_words(run, comparison)
    for name, found in comparison["tasks"].items():
        yield from task_in_words(name, run, comparison["other"], found)


def texts_in_words(run: str, comparison: dict) -> Iterator[str]:
    examples, better = comparison["examples"], comparison["better"]
    for name, unit in UNITS.items():
        if name in comparison:
            yield f"  {difference_in_words(comparison[name], unit)}"
    drawn = f"{examples['count']} {examples['unit'] if examples['count'] > 1 else examples['unit'].removesuffix('s')}"
    if examples["block"] > 1:
        drawn += f" in blocks of {examples['block']}"
    has_interval = comparison["loss" if "loss" in comparison else "bits_per_byte"]["interval"]
    yield (
        f"  the interval is the paired bootstrap's over {drawn}"
        if has_interval
        else f"  {drawn}: too few for an interval"
    )
    if "loss" not in comparison:
        yield "  the tokenizers differ: nats a token can't be compared"
    yield f"  better on {better['run']:.1%} of the {examples['unit']}, worse on {better['other']:.1%}"
    yield from most_in_words(run, comparison["other"], comparison["most_different"], example_in_words)


def task_in_words(name: str, run: str, other: str, found: dict) -> Iterator[str]:
    yield f"  {name}, {found['examples']} examples:"
    for metric, values in found.items():
        if isinstance(values, dict) and "difference" in values:
            yield f"    {difference_in_words(values, metric.replace('_', ' '))}"
    if "mcnemar" in found:
        yield (
            f"    right on {found['only_run']} where {other} is wrong, wrong on {found['only_other']} where that is "
            f"right (McNemar's p = {found['mcnemar']:.2g})"
        )
    yield from most_in_words(run, other, found["most_different"], task_example_in_words)


def difference_in_words(found: dict, unit: str) -> str:
    line = f"{found['other']:.4f} {unit}, a difference of {found['difference']:+.4f}"
    if found["interval"]:
        line += " (95%: {:+.4f} to {:+.4f})".format(*found["interval"])
    return line


def most_in_words(run: str, other: str, examples: dict, in_words: Callable[[dict], str]) -> Iterator[str]:
    for side, name in (("run", run), ("other", other)):
        if examples[side]:
            yield f"  where {name} is better by most:"
        yield from (f"    {in_words(example)}" for example in examples[side])


def example_in_words(example: dict) -> str:
    """One line: where an example stands, what each checkpoint makes of it, and its beginning."""
    (name,) = UNITS.keys() & example.keys()
    place = f"{example['source']}, document {example['document']}"
    if "token" in example:
        place += f", token {example['token']}"
    return f"{place}: {example[name]:.4f} and {example[f'other_{name}']:.4f}: {shorten(example['text'])}"


def task_example_in_words(example: dict) -> str:
    """One line: an example's prompt, what is right, and what each checkpoint wrote or chose."""
    right = example.get("reference", example.get("answer"))
    right, mine, theirs = map(shorten, (right, made_of(example["run"]), made_of(example["other"])))
    return f"example {example['index']}: {shorten(example['prompt'])} → {mine} and {theirs}; right: {right}"


def made_of(result: dict) -> str:
    """What a checkpoint made of an example, by which it counts as right or wrong: the likeliest choice, else the text
    that it wrote, else, of the words behind a text, whether they were the likeliest ones."""
    made = result["chosen"] if "chosen" in result else result.get("output")
    if made is None:
        return "right" if result.get("correct") else "wrong"
    return made


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
