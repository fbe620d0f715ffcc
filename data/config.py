"""What is read, how it is tokenized and how rows are cut from it, as frozen dataclasses.

Experiments (configs/) fill them in; data/pipeline.py builds rows from them, train/check.py checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `path`: `embedded:shakespeare`; a file, a folder (every file below it) or a glob. A text file is one document;
    `*.jsonl`, `*.ndjson`, `*.jsonlines` have one a line and `*.json` one a record, under `field`, or as bare strings;
    `*.csv`, `*.tsv` and `*.parquet` have one a row, in column `field`. Case does not matter; packed files are refused.
    """

    path: str
    field: str = "text"


@dataclass(frozen=True)
class Span:
    """A part of a source's text, from share `start` to share `stop` of its characters, in document order.

    None is the default of the split that it belongs to (`spans`).
    """

    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Tokenizer:
    """`characters` (every distinct character of the source, sorted), `bytes`, `sentencepiece` (`path` is a
    .model file), `gpt2` (`path` is a folder with vocab.json and merges.txt), `json` (`path` is a Hugging Face
    tokenizer.json).

    `start` and `end` name the tokens that stand before and behind every document; None: those that the file marks as
    special for it. `start_prompts`: whether prompts begin with the start token, too; None: where it is not the end
    token as well (Llama: yes, GPT-2: no).
    """

    kind: Literal["characters", "bytes", "sentencepiece", "gpt2", "json"]
    path: str = ""
    start: str | None = None
    end: str | None = None
    start_prompts: bool | None = None


@dataclass(frozen=True)
class Data:
    """Rows of `length` tokens.

    `rows`: `concatenate` joins the documents, permuted once, and cuts rows one after another, each epoch in another
    order; `windows` draws every row's start at random, with replacement, as nanoGPT does. `validation_source` None
    takes validation from the same source: the last tenth of it, where `validation` does not say otherwise. Of two
    sources each is taken whole.
    """

    source: Source
    tokenizer: Tokenizer
    length: int
    rows: Literal["concatenate", "windows"] = "concatenate"
    train: Span | None = None
    validation: Span | None = None
    validation_source: Source | None = None


class Spans(NamedTuple):
    train: Span
    validation: Span


def spans(data: Data) -> Spans:
    """Which part of its source each split is, with nothing left open."""
    shared = data.validation_source in (None, data.source)
    defaults = Spans(Span(0.0, 0.9), Span(0.9, 1.0)) if shared else Spans(Span(0.0, 1.0), Span(0.0, 1.0))
    return Spans(*map(with_defaults, (data.train, data.validation), defaults))


def with_defaults(span: Span | None, default: Span) -> Span:
    span = span or Span()
    return Span(default.start if span.start is None else span.start, default.stop if span.stop is None else span.stop)
