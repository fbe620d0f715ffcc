"""`skald evaluate RUN`: nats a token, perplexity and bits a byte over the validation split or a text file."""

from __future__ import annotations

import json
from argparse import Namespace

from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.scoring import evaluate


def main(arguments: Namespace) -> int:
    run = LoadedCheckpoint(arguments.run, arguments.weights, quantize=arguments.quantize)
    scores = evaluate(run, arguments.text, arguments.window, arguments.stride, arguments.field)
    if arguments.json:
        print(json.dumps(scores))
    else:
        print(
            f"{run.name} at step {scores['step']}: {scores['loss']:.4f} nats a token, perplexity "
            f"{scores['perplexity']:.3f}, {scores['bits_per_byte']:.4f} bits a byte\n"
            f"{scores['tokens']} tokens of {arguments.text or 'the validation split'}, window {scores['window']}, "
            f"stride {scores['stride']}"
        )
        if "unquantized" in scores:
            plain = scores["unquantized"]
            print(
                f"weights in {run.execution.quantize}; as they are: {plain['loss']:.4f} nats a token, perplexity "
                f"{plain['perplexity']:.3f}; it grows by {scores['perplexity'] / plain['perplexity'] - 1:.2%}"
            )
    return 0
