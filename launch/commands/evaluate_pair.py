"""`skald evaluate RUN OTHER`: the scores of a checkpoint, and how they differ from another's on the same texts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from data.windows import ScoredText
from launch.inference.checkpoint import DescribedCheckpoint, LoadedCheckpoint
from launch.inference.paired_texts import PairedTexts
from launch.inference.scoring import Evaluation, evaluate_texts
from launch.inference.text_comparison import TextComparison

SHOWN_TEXT = 60  # characters of an example


def evaluate_pair(arguments: Namespace) -> tuple[dict, TextComparison]:
    """The JSON of `evaluate`, with `comparison`, and the comparison itself. One model at a time is in memory."""
    run, other = (
        DescribedCheckpoint(name, arguments.weights, quantize=arguments.quantize)
        for name in (arguments.run, arguments.other)
    )
    pair = PairedTexts(run, other, arguments.text, arguments.window, arguments.stride, arguments.field)
    scores = evaluate_described(run, pair.run_texts, pair.run_windows)
    other_scores = evaluate_described(other, pair.other_texts, pair.other_windows)
    comparison = TextComparison(pair, scores, other_scores)
    return {**scores.metrics, "comparison": comparison.to_json()}, comparison


def evaluate_described(
    checkpoint: DescribedCheckpoint, texts: list[ScoredText], windows: tuple[int, int]
) -> Evaluation:
    """Loads a checkpoint, the one that was described and no newer one, and scores texts with it."""
    name = f"{checkpoint.folder.parents[1]}@{checkpoint.step}"
    loaded = LoadedCheckpoint(name, checkpoint.weights, quantize=checkpoint.execution.quantize)
    return evaluate_texts(loaded, texts, *windows)


def comparison_in_words(run: str, comparison: dict) -> Iterator[str]:
    """What `evaluate --json` has under `comparison` as lines for a person."""
    other, examples = comparison["other"], comparison["examples"]
    yield f"against {other} at step {comparison['step']}:"
    for name, unit in (("loss", "nats a token"), ("bits_per_byte", "bits a byte")):
        if found := comparison.get(name):
            line = f"  {found['other']:.4f} {unit}, a difference of {found['difference']:+.4f}"
            if found["interval"]:
                line += " ({:.0%}: {:+.4f} to {:+.4f})".format(comparison["confidence"], *found["interval"])
            yield line
    drawn = f"{examples['count']} {examples['unit'] if examples['count'] > 1 else examples['unit'].removesuffix('s')}"
    if examples["block"] > 1:
        drawn += f" in blocks of {examples['block']}"
    measured = comparison["loss" if "loss" in comparison else "bits_per_byte"]["interval"]
    yield f"  intervals are of the paired bootstrap over {drawn}" if measured else f"  {drawn}: too few for an interval"
    if "loss" not in comparison:
        yield "  the tokenizers differ: nats a token can't be compared"
    better, unit = comparison["better"], examples["unit"]
    yield f"  better on {better['run']:.1%} of the {unit}, worse on {better['other']:.1%}"
    for side, name in (("run", run), ("other", other)):
        lines = comparison["most_different"][side]
        if lines:
            yield f"  where {name} is better by most:"
        yield from (f"    {example_in_words(example)}" for example in lines)


def example_in_words(example: dict) -> str:
    """One line: where an example stands, what each checkpoint makes of it, and its beginning."""
    (name,) = [key for key in ("loss", "bits_per_byte") if key in example]
    place = f"{example['source']}, document {example['document']}"
    if "token" in example:
        place += f", token {example['token']}"
    text = " ".join(example["text"].split())
    shown = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
    return f"{place}: {example[name]:.4f} and {example[f'other_{name}']:.4f}: {shown}"
