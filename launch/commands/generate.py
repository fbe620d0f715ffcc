"""`skald generate RUN --prompt TEXT`: writes text from a checkpoint and prints it as it is drawn."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from data.errors import DataError
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.json_schema import read_schema_files
from launch.inference.text import TextGenerator, TextSample
from train.run import RunError


def main(arguments: Namespace) -> int:
    # A wrong sampler is reported before a checkpoint is read.
    sampler = None if arguments.sampler is None else read_schema_files(arguments.sampler)
    prompts = read_prompts(Path(arguments.prompts)) if arguments.prompts else [arguments.prompt]
    run = LoadedCheckpoint(arguments.run, arguments.weights)
    request = {
        "sampler": run.sampler if sampler is None else sampler,
        "max_new_tokens": arguments.max_new_tokens or run.max_new_tokens,
        "seed": arguments.seed,
        "samples": arguments.num_samples,
        "stops": arguments.stop,
    }
    generator = TextGenerator(run.model, run.tokenizer, run.trained_length, run.stop_ids)
    if not arguments.json and not arguments.prompts:
        check_emptied(print_stream(generator, prompts, request))
        return 0
    samples = (sample for prompt in prompts for sample in generator.generate([prompt], **request))
    if arguments.json:
        samples = list(samples)
        shown = [sample.to_json(arguments.logprobs) for sample in samples]
        print(json.dumps({"step": run.step, "samples": shown}, ensure_ascii=False))
    else:
        for sample in samples:
            print(json.dumps(sample.to_json(arguments.logprobs), ensure_ascii=False), flush=True)
    if not arguments.prompts:  # of many prompts each line says how it ended
        check_emptied(samples)
    return 0


def check_emptied(samples: list[TextSample]) -> None:
    """Raises RunError for the first sample that ended since its chain left no token."""
    for sample in samples:
        if sample.finish_reason == "emptied":
            raise RunError(sample.emptied_message())


def print_stream(generator: TextGenerator, prompts: list[str], request: dict) -> list[TextSample]:
    """Prints the first sample as it is drawn, then the others; returns them."""
    texts, printed = [], ""
    for texts in generator.stream(prompts, **request):
        text = texts[0].prompt + texts[0].printable()
        print(text[len(printed) :], end="", flush=True)
        printed = text
    print()
    for text in texts[1:]:
        print(f"{'─' * 40}\n{text.prompt}{text.text}")
    print(f"[{texts[0].sampler or 'the model as it is'}, seed {texts[0].seed}]", file=sys.stderr)
    for text in texts:
        if text.finish_reason == "repetition":
            start = text.completion.repetition_start
            print(f"[a loop began at new token {start}, counted from 0: ended]", file=sys.stderr)
    return texts


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file of JSON lines: objects with the text under `prompt`, or strings. Raises DataError."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a JSON string may hold U+2028, where splitlines cuts
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't read prompts ({error})") from None
    prompts = [read_prompt(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(f'{file}: no prompts in it; each line is {{"prompt": "…"}} or a JSON string')
    return prompts


def read_prompt(line: str, origin: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise DataError(f'{origin}: each line is {{"prompt": "…"}} or a JSON string, not {line.strip()[:60]}')
    return prompt
