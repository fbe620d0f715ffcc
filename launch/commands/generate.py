"""`skald generate RUN --prompt TEXT`: writes text from a checkpoint and prints it as it is drawn.

What `--prompts FILE` does is in launch/commands/prompts.py.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from launch.commands.prompts import answer_prompts
from launch.commands.shading import PlainText, ShadedText, legend
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.drafts import load_draft_model
from launch.inference.json_schema import read_schema_files
from launch.inference.prompts_file import read_requests
from launch.inference.provenance import index_opener
from launch.inference.request import TextRequest
from launch.inference.text import TextGenerator, TextSample, check_stops
from launch.inference.text_engine import TextEngine
from launch.machine.energy import EnergyMeter
from model.decode.prompts import PromptError
from model.decode.speculation import PromptLookup
from train.energy import per_token
from train.run import RunError

DRAFTS = 7  # tokens that a draft model guesses at a time


def main(arguments: Namespace) -> int:
    # What is wrong in a request is said before a checkpoint is read.
    check_options(arguments)
    check_stops(arguments.stop)
    sampler = None if arguments.sampler is None else read_schema_files(arguments.sampler)
    request = TextRequest(arguments.prompt, sampler, arguments.max_new_tokens, arguments.seed,
                          arguments.num_samples, tuple(arguments.stop))  # fmt: skip
    requests = read_requests(Path(arguments.prompts), request) if arguments.prompts else [request]
    run = LoadedCheckpoint(arguments.run, arguments.weights, arguments.kv_cache, arguments.quantize)
    requests = [request.with_defaults(run) for request in requests]
    if arguments.prompts:
        engine = new_engine(run, arguments)
        if sampler is not None:
            engine.chain_of(sampler)  # raises: a chain that is wrong for every prompt
        return answer_prompts(run, engine, requests, arguments)
    return write_one(run, requests[0], arguments)


def check_options(arguments: Namespace) -> None:
    """Raises PromptError for options that do not go together."""
    if arguments.out and (not arguments.prompts or arguments.json):
        raise PromptError(
            "--out writes JSON lines, the answers of --prompts FILE; give it with that, and without --json"
        )
    if arguments.show_probabilities and (arguments.prompts or arguments.json):
        raise PromptError("--show-probabilities colours text on a terminal; --logprobs gives figures as JSON")


def new_engine(run: LoadedCheckpoint, arguments: Namespace) -> TextEngine:
    """The engine that the options ask for. Raises PromptError, SamplerError, CheckpointError."""
    drafter = PromptLookup() if arguments.lookup else None
    if arguments.draft:
        drafter = load_draft_model(arguments.draft, run.tokenizer)
    return TextEngine(run.model, run.tokenizer, run.trained_length, run.stop_ids, drafter=drafter,
                      drafts=arguments.lookup or DRAFTS, invariant=arguments.invariant,
                      open_index=index_opener(run))  # fmt: skip


def write_one(run: LoadedCheckpoint, request: TextRequest, arguments: Namespace) -> int:
    """Writes the samples of one request, and says on standard error what an engine's work came to."""
    started, engine = time.monotonic(), None
    if arguments.invariant or arguments.draft or arguments.lookup:
        engine = new_engine(run, arguments)
        stream = engine.stream(request)
    else:
        generator = TextGenerator(run.model, run.tokenizer, run.trained_length, run.stop_ids, index_opener(run))
        stream = generator.stream([request.prompt], request.sampler, request.max_new_tokens, request.seed,
                                  request.num_samples, request.stop)  # fmt: skip
    if arguments.json:
        with EnergyMeter(jax.devices()[:1], run.config and run.config.energy) as meter:
            *_, samples = stream
        shown = [sample.to_json(arguments.logprobs) for sample in samples]
        energy = per_token(meter.use(), sum(len(sample.completion.tokens) for sample in samples))
        print(json.dumps({"step": run.step, "samples": shown, "energy": energy}, ensure_ascii=False))
    else:
        is_stored = arguments.sampler is None and run.stored_sampler is not None
        samples = print_stream(stream, text_view(arguments.show_probabilities), is_stored)
    if engine:
        print(f"[{engine.summary(time.monotonic() - started)}]", file=sys.stderr)
    check_emptied(samples)
    return 0


def check_emptied(samples: list[TextSample]) -> None:
    """Raises RunError for the first sample that ended since its chain left no token."""
    for sample in samples:
        if sample.finish_reason == "emptied":
            raise RunError(sample.emptied_message())


def text_view(show_probabilities: bool) -> Callable[[TextSample], PlainText | ShadedText]:
    """How texts are shown."""
    if show_probabilities and sys.stdout.isatty():
        print(legend(), file=sys.stderr)
        return ShadedText
    if show_probabilities:
        print("[--show-probabilities needs a terminal: here is plain text; --json --logprobs has the figures]",
              file=sys.stderr)  # fmt: skip
    return PlainText


def print_stream(stream: Iterable[list[TextSample]], view: Callable, is_stored: bool) -> list[TextSample]:
    """Prints the first sample as it is drawn, then the others; returns them. `is_stored`: the sampler is the default
    that `skald quality` stored for the checkpoint."""
    texts, first = [], None
    for texts in stream:
        if first is None:
            first = view(texts[0])
            print(texts[0].prompt, end="")
        print(first.new(), end="", flush=True)
    print()
    for text in texts[1:]:
        print(f"{'─' * 40}\n{text.prompt}{view(text).new()}")
    origin = " (stored by skald quality)" if is_stored else ""
    print(f"[{texts[0].sampler or 'the model as it is'}{origin}, seed {texts[0].seed}]", file=sys.stderr)
    for text in texts:
        if text.finish_reason == "repetition":
            start = text.completion.repetition_start
            print(f"[a loop began at new token {start}, counted from 0: ended]", file=sys.stderr)
    return texts
