"""What is read, how it is tokenized and how rows are cut from it, as frozen dataclasses.

Experiments (configs/) fill them in; data/pipeline.py builds rows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `path`: `embedded:shakespeare`; a text file (one document), a folder (every text file below it), a glob;
    `*.jsonl` (a document a line, its text under `field`); `*.parquet` (a document a row, column `field`).
    """

    path: str
    field: str = "text"


@dataclass(frozen=True)
class Span:
    """A part of a source's text, from share `start` to share `stop` of its characters, in document order."""

    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True)
class Tokenizer:
    """`characters` (every distinct character of the source, sorted), `bytes`, `sentencepiece` (`path` is a
    .model file), `gpt2` (`path` is a folder with vocab.json and merges.txt), `json` (`path` is a Hugging Face
    tokenizer.json)."""

    kind: Literal["characters", "bytes", "sentencepiece", "gpt2", "json"]
    path: str = ""


@dataclass(frozen=True)
class Data:
    """Rows of `length` tokens.

    `rows`: `concatenate` joins the documents, permuted once, and cuts rows one after another, each epoch in another
    order; `windows` draws every row's start at random, with replacement, as nanoGPT does. `validation_source` None
    takes validation from the same source.
    """

    source: Source
    tokenizer: Tokenizer
    length: int
    rows: Literal["concatenate", "windows"] = "concatenate"
    train: Span = field(default_factory=lambda: Span(0.0, 0.9))
    validation: Span = field(default_factory=lambda: Span(0.9, 1.0))
    validation_source: Source | None = None
