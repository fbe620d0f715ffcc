"""The configuration of data as frozen dataclasses: sources, mixtures, splits, the tokenizer, and how rows are packed.

Experiments (configs/) fill them in; data/pipeline.py builds rows from them, train/check.py checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `path` is `embedded:shakespeare`, a file, a folder (every file below it) or a glob, on this machine or as a URL
    (`s3://BUCKET/PATH`, `gs://BUCKET/PATH`). A text file is one document. `*.jsonl`, `*.ndjson` and `*.jsonlines` have
    one document a line and `*.json` one a record, under `field` or as a bare string. `*.csv`, `*.tsv` and `*.parquet`
    have one a row, in column `field`. Behind these endings may stand `.gz`, `.zst`, `.bz2` or `.xz`. `*.array_record`
    has a document a record: under `field` where the first record is a JSON object, else every record is a text. The
    case of endings does not matter.

    `tfds:NAME/SPLIT` is a data set that TensorFlow Datasets has prepared in the format array_record, in the folder that
    the environment variable TFDS_DATA_DIR names (~/tensorflow_datasets); NAME may have a configuration and a version,
    as `novels/short:1.0.0`. `hf:NAME/SPLIT` is one of Hugging Face's `datasets` (NAME may be `user/novels:short`), and
    `hf:FOLDER` what `save_to_disk` wrote. SPLIT, and FOLDER, take the slices of these libraries, as `train[:10%]` and
    `train[100:200]`. `field` names a feature. Documents come in the order of the library, which is shuffled by a hash
    of their keys in TFDS.

    Names in braces stand for parallel files of lines: of `train.{en,de}` a record is a line of train.en, its field
    `en`, with the same line of train.de, its field `de`.

    `prompt` names a second field: its text stands before that of `field` and does not count in the loss. A `template`
    takes the place of both: a file of Jinja, or Jinja itself, that writes a document of a record's fields, the response
    within {% generation %}…{% endgeneration %}, which alone counts; a chat template of `messages` (data/templates.py).
    `rejected` makes a record a preference pair: it names the field of the response that is worse than that of `field`.
    Each response stands behind the prompt, or in the template in the place of `field`, in a half of the document of its
    own. `max_refused` is the share of records that may be left out because they can't be read; more than that is an
    error.
    """

    path: str
    field: str = "text"
    prompt: str | None = None
    template: str | None = None
    rejected: str | None = None
    max_refused: float = 0.0


@dataclass(frozen=True)
class Part:
    """One source of a mixture: `weight` is its share of tokens, relative to the others'.

    `at_end`: a source whose epoch is over begins another one (`repeat`), or leaves its share to the others (`stop`).
    `name` stands in metrics; empty, the last part of the path.
    """

    source: Source
    weight: float = 1.0
    at_end: Literal["repeat", "stop"] = "repeat"
    name: str = ""


@dataclass(frozen=True)
class Phase:
    """From step `start` on, the parts of a mixture have these `weights`, one a part."""

    start: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Mixture:
    """Several sources, mixed by tokens (data/mixture.py). `phases` change the weights over the steps, in order."""

    parts: tuple[Part, ...]
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class Span:
    """A part of a source, from fraction `start` to fraction `stop`; what they divide is `Data.split`'s.

    None stands for the default of the split that the span belongs to (`split_spans`).
    """

    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Tokenizer:
    """The kind of tokenizer, its file, and the special tokens around documents.

    `kind`: `characters` (every distinct character of the source, sorted), `bytes`, `sentencepiece` (`path` is a .model
    file), `gpt2` (`path` is a folder with vocab.json and merges.txt), `json` (`path` is a Hugging Face tokenizer.json)
    or `ids` (the data are token ids already, below `vocab_size`; the other kinds know theirs). `start` and `end` name
    the tokens before and behind every document, for `ids` by their number; None takes those that the file marks as
    special for it. `start_prompts`: whether prompts begin with the start token, too; None means that they do if the
    start token is not the end token as well (Llama: yes, GPT-2: no).
    """

    kind: Literal["characters", "bytes", "sentencepiece", "gpt2", "json", "ids"]
    path: str = ""
    start: str | None = None
    end: str | None = None
    start_prompts: bool | None = None
    vocab_size: int = 0


@dataclass(frozen=True)
class Data:
    """Where text comes from, and how it is tokenized and packed into rows of `length` tokens.

    `packing` (data/packing.py): `concatenate` permutes the documents once, joins them and cuts rows one after another;
    each epoch takes the rows in another order. `windows` draws every row's start at random, with replacement, as
    nanoGPT does. `best_fit` puts whole documents together in a row, and only those longer than a row cross a border.
    `padding` gives every document rows of its own. `pairs` gives each half of a preference pair (`Source.rejected`) a
    row, the chosen one before the rejected one; each epoch takes the pairs in another order. These three refuse
    documents of prompt and response that are longer than a row, or leave them out (`too_long`: `drop`).

    `split`: documents belong to training or validation by a hash of their text, or by their position in the source's
    tokens, where the document at the border is cut. A source of too few documents is split by position.

    Where `validation_source` is None, validation is a part of the same source (of each source of a mixture): a tenth,
    unless `validation` says otherwise. Of two different sources each is taken whole. `drop_duplicates` leaves out of
    training every document that is in validation, too.
    """

    source: Source | Mixture
    tokenizer: Tokenizer
    length: int
    packing: Literal["concatenate", "windows", "best_fit", "padding", "pairs"] = "concatenate"
    too_long: Literal["refuse", "drop"] = "refuse"
    split: Literal["hash", "position"] = "hash"
    train: Span | None = None
    validation: Span | None = None
    validation_source: Source | None = None
    drop_duplicates: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sources of training: one part where there is no mixture."""
        return self.source.parts if isinstance(self.source, Mixture) else (Part(self.source, name="source"),)

    @property
    def rows_together(self) -> int:
        """How many rows of a batch belong together, from a multiple of this number on: two where they are pairs."""
        return 2 if self.packing == "pairs" else 1


class Spans(NamedTuple):
    train: Span
    validation: Span


def split_spans(data: Data) -> Spans:
    """The span of its source that each split covers, with all defaults filled in."""
    same_source = data.validation_source in (None, data.source)
    defaults = Spans(Span(0.0, 0.9), Span(0.9, 1.0)) if same_source else Spans(Span(0.0, 1.0), Span(0.0, 1.0))
    return Spans(*map(with_defaults, (data.train, data.validation), defaults))


def with_defaults(span: Span | None, default: Span) -> Span:
    span = span or Span()
    return Span(default.start if span.start is None else span.start, default.stop if span.stop is None else span.stop)
