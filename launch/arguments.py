"""What `skald` takes: its commands and their arguments. launch/cli.py parses with it. Nothing here imports JAX."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from launch import VERSION

COMMANDS = {
    "configs": ("list every config with its parameters", "skald configs"),
    "train": ("train a config, or go on where its run stopped", "skald train shakespeare --set steps=500"),
    "generate": ("write text from a checkpoint", "skald generate runs/shakespeare --prompt 'ROMEO:'"),
    "evaluate": ("score a checkpoint", "skald evaluate runs/shakespeare@best --json"),
    "quality": ("measure quality and diversity of what a checkpoint writes", "skald quality runs/shakespeare --quick"),
    "trace": ("mark what of a text stands in the training text", "skald trace runs/books --text story.txt"),
    "prepare": ("tokenize a config's data ahead of time", "skald prepare gpt2:small --set data.source.path=novels/"),
    "data": ("show the rows of a step and the documents they come from", "skald data shakespeare --step 10 --rows 2"),
    "tokenizer": ("train a SentencePiece tokenizer", "skald tokenizer novels/ --out novels.model"),
    "cache": ("list tokenized data and compiled programs, or remove some", "skald cache --prune --older-than 30"),
    "plan": ("compile a config's step for TPUs that are not here", "skald plan llama:7b --topology v5p:4x4x4"),
    "import": ("make a run of a Hugging Face checkpoint", "skald import gpt2_folder runs/gpt2"),
    "export": ("write a checkpoint as a Hugging Face folder", "skald export runs/gpt2@best gpt2_folder"),
    "report": ("show runs as one HTML page: curves, samples, quality, cost", "skald report runs/shakespeare"),
    "bench": ("measure this machine, alone or against a peer", "skald bench train --against hf"),
}
BENCH_DEFAULTS = {  # what `bench` measures by default
    "train": "shakespeare:nanogpt",
    "decode": "gpt2:small",
    "data": "shakespeare",
    "likelihood": "gpt2:small",
}


def argument_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="skald", description="Trains Transformer language models and makes them write.")
    version = f"%(prog)s {VERSION} (jax {metadata.version('jax')}, Python {platform.python_version()})"
    top.add_argument("--version", action="version", version=version)
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, (purpose, example) in COMMANDS.items():
        parsers[name] = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parsers[name].add_argument("--json", action="store_true", help="print one JSON value on standard output")
        parsers[name].add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    train_arguments(parsers["train"])
    generate_arguments(parsers["generate"])
    evaluate_arguments(parsers["evaluate"])
    quality_arguments(parsers["quality"])
    trace_arguments(parsers["trace"])
    prepare_arguments(parsers["prepare"])
    data_arguments(parsers["data"])
    tokenizer_arguments(parsers["tokenizer"])
    cache_arguments(parsers["cache"])
    plan_arguments(parsers["plan"])
    import_arguments(parsers["import"])
    export_arguments(parsers["export"])
    report_arguments(parsers["report"])
    bench_arguments(parsers["bench"])
    return top


def config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a field; repeatable")
    command.add_argument("--seed", type=int, help="seed of parameters, data order and dropout")


def train_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="name, name:variant, or a Python file")
    config_arguments(command)
    command.add_argument("--run-dir", help="the run's folder (default runs/NAME-VARIANT)")
    command.add_argument("--from", dest="start_from", metavar="RUN", help="start a new run from another's weights")


def checkpoint_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="FOLDER, FOLDER@STEP, @latest, @best or @human")
    weights = "which of its weights (default: the average where one was kept)"
    command.add_argument("--weights", choices=["average", "plain"], help=weights)


def generate_arguments(command: argparse.ArgumentParser) -> None:
    checkpoint_arguments(command)
    quantize = "keep weights in 8 or 4 bits while decoding (default: as the config says)"
    command.add_argument("--quantize", choices=["none", "int8", "int4"], help=quantize)
    source = command.add_mutually_exclusive_group()
    source.add_argument("--prompt", default="\n", metavar="TEXT", help="the text to go on from")
    prompts = 'many at once: JSON lines in ({"prompt": …, "seed": …}), JSON lines out, in order'
    source.add_argument("--prompts", metavar="FILE", help=prompts)
    out = "with --prompts: write into this file, and go on with it where it holds answers"
    command.add_argument("--out", metavar="FILE", help=out)
    sampler = (
        "links in order, as temperature=0.8,top_p=0.95, or greedy, beam=4, …: README.md, Writing, has them all "
        "(default: the run's evaluation.sampler, an import's generation_config.json)"
    )
    command.add_argument("--sampler", metavar="CHAIN", help=sampler)
    tokens = "default: an import's generation_config.json, else 300"
    command.add_argument("--max-new-tokens", type=positive, metavar="N", help=tokens)
    command.add_argument("--num-samples", type=positive, default=1)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    logprobs = "with --json or --prompts: each token's log-probabilities, in nats"
    command.add_argument("--logprobs", action="store_true", help=logprobs)
    shades = "on a terminal: shade each token by the model's probability of it"
    command.add_argument("--show-probabilities", action="store_true", help=shades)
    cache = "how keys and values are remembered (default: as the config says)"
    command.add_argument("--kv-cache", choices=["plain", "int8"], help=cache)
    invariant = "every bit depends on the request alone, not on what is written beside it; slower"
    command.add_argument("--invariant", action="store_true", help=invariant)
    drafts = command.add_mutually_exclusive_group()
    draft = "a smaller run of the same tokenizer drafts the text, which stays the same"
    drafts.add_argument("--draft", metavar="RUN", help=draft)
    lookup = "so many tokens at a time are drafted by what stands in the text already, which stays the same"
    drafts.add_argument("--lookup", type=positive, metavar="N", help=lookup)


def evaluate_arguments(command: argparse.ArgumentParser) -> None:
    checkpoint_arguments(command)
    other = "compare with this checkpoint, example by example, on the same texts"
    command.add_argument("other", nargs="?", metavar="OTHER", help=other)
    quantize = "score with weights in 8 or 4 bits, as generate has them, and with those that they are rounded from"
    command.add_argument("--quantize", choices=["none", "int8", "int4"], help=quantize)
    command.add_argument("--text", metavar="FILE", help="score this text instead of the validation split")
    command.add_argument("--field", metavar="NAME", help="the text's field or column (default: the run's own)")
    command.add_argument("--window", type=positive, help="tokens a window (default: the rows it was trained on)")
    command.add_argument("--stride", type=positive, help="tokens between windows (default: the window)")
    examples = "write every document's score, the worst first (with OTHER both, most different first), as JSON lines"
    command.add_argument("--examples", metavar="FILE", help=examples)
    watch = "score every checkpoint as the run publishes it, into RUN/evaluations.jsonl, until the run is over"
    command.add_argument("--watch", action="store_true", help=watch)
    timeout = "with --watch: give up where no checkpoint was published for so many seconds (default: wait for ever)"
    command.add_argument("--timeout", type=positive_number, metavar="S", help=timeout)
    tasks = "names of configs/tasks or TOML files, with commas between; repeatable"
    command.add_argument("--tasks", action="append", default=[], metavar="TASKS", help=tasks)
    settings = "change a field of a task, as sentiment.data=dev.tsv or sentiment.limit=100; repeatable"
    command.add_argument("--set", action="append", default=[], metavar="TASK.FIELD=VALUE", help=settings)
    results = "keep every example's result there (default: tasks/STEP of the run), and go on behind those of --tasks"
    command.add_argument("--results", metavar="FOLDER", help=results)
    harness = (
        "score tasks, groups or tags of lm-evaluation-harness instead, with commas between; a kill begins them anew"
    )
    command.add_argument("--harness", metavar="TASKS", help=harness)
    include = "with --harness: a folder with task files of your own"
    command.add_argument("--include", metavar="FOLDER", help=include)


def quality_arguments(command: argparse.ArgumentParser) -> None:
    checkpoint_arguments(command)
    quantize = "write and score with weights in 8 or 4 bits (default: as the config says)"
    command.add_argument("--quantize", choices=["none", "int8", "int4"], help=quantize)
    grids = command.add_mutually_exclusive_group()
    grids.add_argument("--grid", metavar="FILE", help="a TOML file of samplers by kind (default: 24 of six kinds)")
    grids.add_argument("--quick", action="store_true", help="a small grid, a few prompts, shorter texts")
    text = "take the prompts from this text (default: the run's validation split)"
    command.add_argument("--text", metavar="FILE", help=text)
    command.add_argument("--prompts", type=positive, metavar="N", help="how many (default: as the grid says)")
    command.add_argument(
        "--prompt-tokens", type=positive, metavar="N", help="of each prompt (default: as the grid says)"
    )
    command.add_argument("--new-tokens", type=positive, metavar="N", help="of each text (default: as the grid says)")
    command.add_argument("--seed", type=not_negative, default=0, help="of places and texts (default 0)")
    command.add_argument("--judge", metavar="RUN", help="a second model that scores the texts, of any tokenizer")
    shuffles = "other prompts behind which each text is scored too (default 2)"
    command.add_argument("--shuffles", type=positive, default=2, metavar="N", help=shuffles)
    novelty = "don't look texts up in the training text, whose index is made where there is none"
    command.add_argument("--no-novelty", action="store_true", help=novelty)
    command.add_argument("--crows-pairs", metavar="FILE", help="score the pairs of CrowS-Pairs, a CSV file")
    words = "count texts with a word of this list, one a line (default: a list of insults and threats)"
    command.add_argument("--toxic-words", metavar="FILE", help=words)
    memorization = "measure how much of the training text can be extracted"
    command.add_argument("--memorization", action="store_true", help=memorization)
    gate = (
        "exit status 1 where the default sampler leaves what human text spans; without --grid or --quick only it is run"
    )
    command.add_argument("--gate", action="store_true", help=gate)
    stored = command.add_mutually_exclusive_group()
    stored.add_argument("--store", action="store_true", help="make the recommended sampler this checkpoint's default")
    stored.add_argument("--forget", action="store_true", help="take that back, and measure nothing")


def trace_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="FOLDER, FOLDER@STEP, @latest or @best")
    command.add_argument("--text", required=True, metavar="FILE", help="the text to look up; - is standard input")
    least = "mark spans from so many tokens on (default: so that 1%% of held-out human text is marked at most)"
    command.add_argument("--least", type=positive, metavar="N", help=least)
    command.add_argument("--html", metavar="OUT", help="also write a page, with every span and its source")


def prepare_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="name, name:variant, or a Python file")
    config_arguments(command)
    index = "also index its training tokens, for skald trace, skald quality and max_copied_tokens"
    command.add_argument("--index", action="store_true", help=index)


def data_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="name, name:variant, or a Python file")
    config_arguments(command)
    steps = "steps that were trained before it: 0 is the first batch"
    command.add_argument("--step", type=not_negative, required=True, metavar="N", help=steps)
    command.add_argument("--rows", type=positive, metavar="K", help="only the first K rows")
    command.add_argument("--hosts", type=positive, default=1, metavar="H", help="as H readers would split the rows")
    command.add_argument("--full", action="store_true", help="show all text, however long")


def cache_arguments(command: argparse.ArgumentParser) -> None:
    unused = "remove unfinished stores that no process works on, and what other versions left"
    command.add_argument("--prune", action="store_true", help=unused)
    old = "with --prune: also stores that no command has opened for so many days"
    command.add_argument("--older-than", type=days, metavar="DAYS", help=old)


def tokenizer_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", metavar="FILES", help="text, JSON lines, CSV, parquet; a folder or a glob")
    command.add_argument("--out", required=True, metavar="FILE", help="the model to write, as books.model")
    kinds = "bpe (default), or unigram: as good, ten times as slow to train, faster to encode with"
    command.add_argument("--kind", choices=["bpe", "unigram"], default="bpe", help=kinds)
    command.add_argument("--vocab-size", type=positive, default=8192, metavar="N", help="tokens (default 8192)")
    sample = "most bytes of text to train on: lines drawn from all of it (default 100000000)"
    command.add_argument("--sample-bytes", type=positive, default=100_000_000, metavar="N", help=sample)
    command.add_argument("--field", default="text", metavar="NAME", help="the text's field or column (default: text)")
    command.add_argument("--force", action="store_true", help="write over a file that is there")


def plan_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="name, name:variant, or a Python file")
    config_arguments(command)
    command.add_argument("--topology", metavar="NAME", help="v4, v5e, v5p, v6e or tpu7x and chips: v5e:16x16")
    command.add_argument("--slices", type=positive, default=1, help="so many of them, joined by a network (replica)")
    command.add_argument("--search", action="store_true", help="find mesh, microbatches and remat policy")
    command.add_argument("--dump-hlo", metavar="FILE", help="keep the scheduled program")


def import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="HF_FOLDER", help="config.json, *.safetensors and the tokenizer's files")
    command.add_argument("run", metavar="RUN", help="the folder of the new run")
    command.add_argument("--base", metavar="RUN", help="HF_FOLDER holds PEFT adapters: the run that they adapt")


def export_arguments(command: argparse.ArgumentParser) -> None:
    checkpoint_arguments(command)
    command.add_argument("folder", metavar="HF_FOLDER", help="the folder to write; it must not be there yet")
    formats = "of the files' numbers (default: that of the files that were imported, float32 where none were)"
    command.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help=formats)
    command.add_argument(
        "--shard-size", type=positive, default=5_000_000_000, metavar="BYTES", help="of a file, at most"
    )
    command.add_argument("--adapters", action="store_true", help="write a LoRA run's adapters alone, as PEFT's")


def report_arguments(command: argparse.ArgumentParser) -> None:
    runs = "FOLDER, FOLDER@STEP, @latest or @best; several are shown beside each other"
    command.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    command.add_argument("--out", metavar="FILE", help="the page to write (default: report.html in the first run)")


def bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=["train", "decode", "data", "likelihood"])
    command.add_argument("config", nargs="?", metavar="CONFIG", help=f"default: {', '.join(BENCH_DEFAULTS.values())}")
    config_arguments(command)
    peers = (
        "run a peer in turn with ours: hf, Hugging Face on PyTorch (train, decode); torch, the same GPT in plain "
        "PyTorch, eager and compiled (train); grain (data); harness, lm-evaluation-harness on PyTorch (likelihood)"
    )
    command.add_argument("--against", choices=["hf", "torch", "grain", "harness"], help=peers)
    command.add_argument("--runs", type=positive, help="counted runs of each side (default 5; 1 with --engine)")
    engine = "decode: 64 requests of mixed lengths at once, and the same one after another"
    command.add_argument("--engine", action="store_true", help=engine)
    price = (
        "decode: texts whose every bit is the same in any company, and the same texts in fast mode (--batch at once)"
    )
    command.add_argument("--invariant", action="store_true", help=price)
    bits = "decode: weights in 8 or 4 bits, and as they are, in turn"
    command.add_argument("--quantize", choices=["int8", "int4"], help=bits)
    command.add_argument(
        "--batch", type=positive, action="append", help="decode, data: rows at a time (default 1, 8; 256)"
    )
    latency = "decode: the first token's latency for prompts of 16, 256 and 1024 tokens"
    command.add_argument("--latency", action="store_true", help=latency)
    command.add_argument("--length", type=positive, help="data: tokens of a row (default 2048)")
    items = "likelihood: questions, each with two answers (default 1000)"
    command.add_argument("--items", type=positive, metavar="N", help=items)
    seconds = "train, data: of a counted run, about (default 4; 2)"
    command.add_argument("--seconds", type=positive_number, metavar="S", help=seconds)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def not_negative(text: str) -> int:
    """A whole number from 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def positive_number(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def days(text: str) -> float:
    """Days and parts of them, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value
