"""`skald generate RUN --prompt TEXT`: writes from a checkpoint, shown as it is made."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from data.errors import DataError
from launch.checkpointed import Checkpointed
from launch.writing import Text, Writer, shown
from model.decode import chain as chains


def command(arguments: Namespace) -> int:
    prompts = read_prompts(Path(arguments.prompts)) if arguments.prompts else [arguments.prompt]
    chain = chains.text(chains.parse(arguments.sampler))
    run = Checkpointed(arguments.run)
    writer = Writer(run.model, run.tokenizer)
    wanted = {
        "sampler": chain,
        "max_new_tokens": arguments.max_new_tokens,
        "seed": arguments.seed or 0,
        "samples": arguments.num_samples,
        "stops": arguments.stop,
    }
    if arguments.prompts:
        for prompt in prompts:
            for text in writer.write([prompt], **wanted):
                print(json.dumps(sample(text, wanted, arguments.logprobs), ensure_ascii=False), flush=True)
    elif arguments.json:
        found = [sample(text, wanted, arguments.logprobs) for text in writer.write(prompts, **wanted)]
        print(json.dumps({"step": run.step, "samples": found}, ensure_ascii=False))
    else:
        show(writer, prompts, wanted)
    return 0


def show(writer: Writer, prompts: list[str], wanted: dict) -> None:
    """The first sample as it is made, the others after it."""
    texts: list[Text] = []
    written = ""
    for texts in writer.stream(prompts, **wanted):
        text = texts[0].prompt + shown(texts[0], wanted["stops"])
        sys.stdout.write(text[len(written) :])
        sys.stdout.flush()
        written = text
    sys.stdout.write("\n")
    for text in texts[1:]:
        print(f"{'─' * 40}\n{text.prompt}{text.text}")
    print(f"[{wanted['sampler'] or 'plain sampling'}, seed {wanted['seed']}]", file=sys.stderr)


def sample(text: Text, wanted: dict, logprobs: bool) -> dict:
    """A sample as `--json` prints it."""
    found = {
        "prompt": text.prompt,
        "text": text.text,
        "tokens": text.tokens,
        "finish_reason": text.finish_reason,
        "seed": wanted["seed"],
        "sampler": wanted["sampler"],
    }
    return {**found, "logprobs": text.logprobs} if logprobs else found


def read_prompts(file: Path) -> list[str]:
    """A JSON object a line, its text under `prompt`; or a JSON string a line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't read prompts ({error})") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            prompts.append(value if isinstance(value, str) else value["prompt"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(f'{file}:{number}: each line is {{"prompt": "…"}} or a JSON string') from None
    return prompts
