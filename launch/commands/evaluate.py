"""`skald evaluate RUN`: nats a token, perplexity and bits a byte over the validation split or a text file."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import evaluate


def main(arguments: Namespace) -> int:
    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    examples = [] if arguments.examples else None
    if arguments.examples:
        open(arguments.examples, "a").close()  # what is wrong with it is said before anything is scored
    scores = evaluate(run, arguments.text, arguments.window, arguments.stride, arguments.field, examples)
    if arguments.examples:
        lines = (json.dumps(example, ensure_ascii=False) for example in examples)
        Path(arguments.examples).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if arguments.json:
        print(json.dumps(scores))
    else:
        print(
            f"{run.name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity "
            f"{scores['perplexity']:.3f}, {scores['bits_per_byte']:.4f} bits a byte\n"
            f"{scores['tokens']} tokens of {arguments.text or 'the validation split'}, window {scores['window']}, "
            f"stride {scores['stride']}"
        )
        found = scores["calibration"]
        print(
            f"the most likely token is right {found['accuracy']:.1%} of the time; calibration error "
            f"{found['ece']:.4f}, Brier score {found['brier']:.4f}"
        )
        if "unquantized" in scores:
            plain = scores["unquantized"]
            print(
                f"weights in {run.execution.quantize}; as they are: {plain['loss']:.4f} nats a token, perplexity "
                f"{plain['perplexity']:.3f}; it grows by {scores['perplexity'] / plain['perplexity'] - 1:z.2%}"
            )
    return 0
