"""`skald tokenizer FILES… --out FILE`: trains a SentencePiece tokenizer on the sources that training reads."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.config import Source
from data.config import Tokenizer as Config
from data.sources.source import open_source, read_documents
from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from data.tokenizers.training import Sample, Trainer, document_lines, draw_sample, train
from data.whole_file import whole_file
from launch.commands.quantities import count, format_size
from train.fields import ConfigError

PROGRESS_SECONDS = 10


def main(arguments: Namespace) -> int:
    out, sources = Path(arguments.out), [Source(path, arguments.field) for path in arguments.files]
    trainer = Trainer(arguments.kind, arguments.vocab_size, arguments.sample_bytes)
    check_out(out, arguments.force)
    try:
        with whole_file(out) as file:
            sample = read_sample(sources, trainer.sample_bytes)
            report(f"training {trainer.kind}, {trainer.vocab_size:,} tokens, on {describe(sample)}")
            file.write(train(trainer, sample))
    except OSError as error:  # not of the sources: their errors are DataErrors
        raise ConfigError(f"--out {out}: can't be written ({error.strerror})") from None
    tokenizer = build_tokenizer(Config("sentencepiece", str(out)), sources)
    print_result(out, trainer, sample, bytes_per_token(tokenizer, sample), arguments.json)
    return 0


def check_out(out: Path, force: bool) -> None:
    """Raises ConfigError where the model could not be written to `out` in the end."""
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file in it, as {out / 'text.model'}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: is there already; --force writes over it")


def read_sample(sources: list[Source], limit: int) -> Sample:
    """A sample of all lines of all sources. Every source is looked for before the first one is read."""
    files = [file for source in sources for file in open_source(source)]
    report(f"reading {count(len(files), 'file')}, {format_size(sum(file.size for file in files))}")
    remedy = "--field NAME names another"
    documents = (document for source in sources for document in read_documents(source, remedy))
    lines = (line for document in documents for line in document_lines(document))
    return draw_sample(report_lines(lines), limit)


def report_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines, with a word now and then on how many there were."""
    due = time.monotonic() + PROGRESS_SECONDS
    for number, line in enumerate(lines):
        yield line
        if number % 10_000 == 0 and time.monotonic() > due:
            report(f"read {number:,} lines")
            due = time.monotonic() + PROGRESS_SECONDS


def bytes_per_token(tokenizer: Tokenizer, sample: Sample) -> float:
    """Bytes of text that a token stands for, on some ten thousand lines of the sample."""
    lines = sample.lines[:: max(1, len(sample.lines) // 10_000)]
    return sum(len(line.encode("utf-8")) for line in lines) / sum(len(tokenizer.encode(line)) for line in lines)


def print_result(out: Path, trainer: Trainer, sample: Sample, compression: float, as_json: bool) -> None:
    if as_json:
        counts = {"lines": len(sample.lines), "bytes": sample.bytes}
        read = {"lines_read": sample.lines_read, "bytes_read": sample.bytes_read}
        model = {"path": str(out), "kind": trainer.kind, "vocab_size": trainer.vocab_size}
        print(json.dumps({**model, **counts, **read, "bytes_per_token": compression}))
        return
    settings = f"--set data.tokenizer.kind=sentencepiece --set data.tokenizer.path={shlex.quote(str(out))}"
    print(f"{out}: {trainer.vocab_size:,} tokens, {compression:.2f} bytes of that text a token")
    print(f"train with it: skald train CONFIG {settings} --set model.vocab_size=0")


def describe(sample: Sample) -> str:
    used = f"{count(len(sample.lines), 'line')}, {format_size(sample.bytes)}"
    if len(sample.lines) == sample.lines_read:
        return used
    return f"{used}, drawn from {count(sample.lines_read, 'line')}, {format_size(sample.bytes_read)} (--sample-bytes)"


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
