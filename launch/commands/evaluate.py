"""`skald evaluate RUN`: nats a token, perplexity and bits a byte over the validation split or a text file."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from launch.commands.evaluate_pair import comparison_in_words, evaluate_pair
from launch.commands.evaluate_watch import watch_run
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import evaluate
from train.fields import ConfigError


def main(arguments: Namespace) -> int:
    if arguments.watch:
        check_watch(arguments)
        return watch_run(arguments, scores_in_words)
    if arguments.examples:
        open(arguments.examples, "a").close()  # what is wrong with it is said before anything is scored
    if arguments.other is not None:
        scores, comparison = evaluate_pair(arguments)
        examples = comparison.examples()
    else:
        run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
        examples = [] if arguments.examples else None
        scores = evaluate(run, arguments.text, arguments.window, arguments.stride, arguments.field, examples)
    if arguments.examples:
        lines = (json.dumps(example, ensure_ascii=False) for example in examples)
        Path(arguments.examples).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(json.dumps(scores) if arguments.json else scores_in_words(arguments.run, scores, arguments))
    return 0


def check_watch(arguments: Namespace) -> None:
    """Raises ConfigError for what a watch can't do."""
    if arguments.examples:
        raise ConfigError("--examples with --watch: each checkpoint would write over the file; name one, RUN@STEP")
    if arguments.other is not None:
        raise ConfigError("--watch follows one run, and two are named; compare them without --watch")


def scores_in_words(name: str, scores: dict, arguments: Namespace) -> str:
    """The scores of `evaluate --json` as lines for a person."""
    found = scores["calibration"]
    lines = [
        f"{name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity {scores['perplexity']:.3f}, "
        f"{scores['bits_per_byte']:.4f} bits a byte",
        f"{scores['tokens']} tokens of {arguments.text or 'the validation split'}, window {scores['window']}, "
        f"stride {scores['stride']}",
        f"the most likely token is right {found['accuracy']:.1%} of the time; calibration error {found['ece']:.4f}, "
        f"Brier score {found['brier']:.4f}",
    ]
    if "unquantized" in scores:
        plain = scores["unquantized"]
        lines.append(
            f"weights in {scores['quantize']}; as they are: {plain['loss']:.4f} nats a token, perplexity "
            f"{plain['perplexity']:.3f}; it grows by {scores['perplexity'] / plain['perplexity'] - 1:z.2%}"
        )
    if "comparison" in scores:
        lines += comparison_in_words(name, scores["comparison"])
    return "\n".join(lines)
