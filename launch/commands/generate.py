"""`skald generate RUN --prompt TEXT`: writes from a checkpoint, shown as it is made."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from data.errors import DataError
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.text import TextGenerator
from model.decode import chain as chains


def main(arguments: Namespace) -> int:
    request = {
        "sampler": arguments.sampler,
        "max_new_tokens": arguments.max_new_tokens,
        "seed": arguments.seed,
        "samples": arguments.num_samples,
        "stops": arguments.stop,
    }
    chains.parse_chain(arguments.sampler)  # wrong input is said before a checkpoint is read
    prompts = read_prompts(Path(arguments.prompts)) if arguments.prompts else [arguments.prompt]
    run = LoadedCheckpoint(arguments.run, arguments.weights)
    writer = TextGenerator(run.model, run.tokenizer, run.trained_length)
    found = (text.to_json(arguments.logprobs) for p in prompts for text in writer.write([p], **request))
    if arguments.json:
        print(json.dumps({"step": run.step, "samples": list(found)}, ensure_ascii=False))
    elif arguments.prompts:
        for written in found:
            print(json.dumps(written, ensure_ascii=False), flush=True)
    else:
        print_stream(writer, prompts, request)
    return 0


def print_stream(writer: TextGenerator, prompts: list[str], request: dict) -> None:
    """The first sample as it is made, the others after it."""
    texts, written = [], ""
    for texts in writer.stream(prompts, **request):
        text = texts[0].prompt + texts[0].shown(request["stops"])
        print(text[len(written) :], end="", flush=True)
        written = text
    print()
    for text in texts[1:]:
        print(f"{'─' * 40}\n{text.prompt}{text.text}")
    print(f"[{texts[0].sampler or 'the model as it is'}, seed {texts[0].seed}]", file=sys.stderr)


def read_prompts(file: Path) -> list[str]:
    """A JSON object a line, its text under `prompt`; or a JSON string a line. Raises DataError."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a JSON string may hold U+2028, where splitlines cuts
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't read prompts ({error})") from None
    prompts = [read_prompt(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(f'{file}: no prompts in it; each line is {{"prompt": "…"}} or a JSON string')
    return prompts


def read_prompt(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise DataError(f'{place}: each line is {{"prompt": "…"}} or a JSON string, not {line.strip()[:60]}')
    return prompt
