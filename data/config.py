"""The configuration of data as frozen dataclasses: sources, their splits, the tokenizer, and how rows are cut.

Experiments (configs/) fill them in; data/pipeline.py builds rows from them, train/check.py checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `path` is `embedded:shakespeare`, a file, a folder (every file below it) or a glob. A text file is one document.
    `*.jsonl`, `*.ndjson` and `*.jsonlines` have one document a line and `*.json` one a record, under `field` or as a
    bare string. `*.csv`, `*.tsv` and `*.parquet` have one a row, in column `field`. The case of these endings does not
    matter. Packed files are refused.
    """

    path: str
    field: str = "text"


@dataclass(frozen=True)
class Span:
    """A part of a source's text, from fraction `start` to fraction `stop` of its characters, in document order.

    None stands for the default of the split that the span belongs to (`spans`).
    """

    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Tokenizer:
    """The kind of tokenizer, its file, and the special tokens around documents.

    `kind`: `characters` (every distinct character of the source, sorted), `bytes`, `sentencepiece` (`path` is a .model
    file), `gpt2` (`path` is a folder with vocab.json and merges.txt) or `json` (`path` is a Hugging Face
    tokenizer.json). `start` and `end` name the tokens before and behind every document; None takes those that the file
    marks as special for it. `start_prompts`: whether prompts begin with the start token, too; None means that they do
    if the start token is not the end token as well (Llama: yes, GPT-2: no).
    """

    kind: Literal["characters", "bytes", "sentencepiece", "gpt2", "json"]
    path: str = ""
    start: str | None = None
    end: str | None = None
    start_prompts: bool | None = None


@dataclass(frozen=True)
class Data:
    """Where text comes from, and how it is tokenized and cut into rows of `length` tokens.

    `rows`: `concatenate` permutes the documents once, joins them and cuts rows one after another; each epoch takes the
    rows in another order. `windows` draws every row's start at random, with replacement, as nanoGPT does. Where
    `validation_source` is None, validation is a part of the same source: its last tenth, unless `validation` says
    otherwise. Of two different sources each is taken whole.
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
    """The span of its source that each split covers, with all defaults filled in."""
    same_source = data.validation_source in (None, data.source)
    defaults = Spans(Span(0.0, 0.9), Span(0.9, 1.0)) if same_source else Spans(Span(0.0, 1.0), Span(0.0, 1.0))
    return Spans(*map(with_defaults, (data.train, data.validation), defaults))


def with_defaults(span: Span | None, default: Span) -> Span:
    span = span or Span()
    return Span(default.start if span.start is None else span.start, default.stop if span.stop is None else span.stop)
