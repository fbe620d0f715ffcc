"""The protocol of tokenizers, and functions that build one from a config or a checkpoint. Each kind has its own file.

data/ encodes text with them, launch/ prompts and what is generated.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError, FieldError
from data.sources import source as sources
from data.tokenizers.special_tokens import BoundaryToken


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    `start_id` is the token before every document, `end_id` the one behind it (data/documents.py); None: there is none.
    A vocabulary without a start token uses its end token as both. `start_prompts`: prompts begin with `start_id`, too.
    `notes`: lines for the person who chose the tokenizer. `lossless`: decode(encode(text)) == text for every text that
    encode accepts. `has_cut_points`: texts may have places where they can be cut (`last_cut`).
    `reads_ids`: sources hold token ids, not text; what is called bytes of text is then the number of ids.
    """

    vocab_size: int
    start_id: int | None
    end_id: int | None
    start_prompts: bool
    notes: Sequence[str]
    lossless: bool
    has_cut_points: bool
    reads_ids: bool

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises DataError naming the first character that the tokenizer does not know."""
        ...

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        """The ids of a text, int32 [t]; `continued`: of the rest of a text, behind a cut point. Raises as encode does.

        A tokenizer that puts a space in front of every text does not do so where the text is continued.
        """
        ...

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        """The ids of a text behind the text `before` (its last characters will do) or a start or end token, int32 [t].

        They are those that it has in the whole text, but that no token goes across the border: no space is put in
        front of it, as some tokenizers put one in front of every text. Raises as encode does.
        """
        ...

    def last_cut(self, text: str) -> int:
        """The last offset at which a text may be cut, whatever text comes behind it; 0: there is none.

        For every `behind`, encode(text + behind) is encode_array(text[:cut]) and then encode_array(text[cut:] + behind,
        continued=True); the same holds where `text` itself is continued. data/tokenizers/segments.py cuts there.
        """
        ...

    def decode(self, ids: list[int]) -> str: ...

    def first_token_bytes(self, text: str) -> int:
        """Bytes of UTF-8 that a text's first token stands for; a character of several tokens belongs to the last."""
        ...

    def token_bytes(self) -> list[bytes | None]:
        """The bytes of UTF-8 that each id adds to a text; None: no text is written with it, as with special tokens."""
        ...

    def to_json(self) -> dict:
        """Everything that is needed to build the tokenizer again, with its `kind`."""
        ...


MODULES = {  # imported when first used: each brings a library of its own, and start-up should stay short
    "characters": "data.tokenizers.characters",
    "bytes": "data.tokenizers.byte_level",
    "sentencepiece": "data.tokenizers.sentencepiece_model",
    "gpt2": "data.tokenizers.gpt2_bpe",
    "json": "data.tokenizers.huggingface_json",
    "ids": "data.tokenizers.token_ids",
}


NAMEABLE = ("json", "sentencepiece", "ids")  # kinds whose start and end tokens a config may name


def build_tokenizer(
    config: Config, training: Sequence[Source], report: Callable[[str], None] = lambda _: None
) -> Tokenizer:
    """Builds the tokenizer that a config describes, and passes its notes to `report`.

    `characters` takes its vocabulary from the whole text of the `training` sources; the other kinds do not read it.
    Raises DataError for a file that is no tokenizer, and where `characters` finds no text.
    """
    module = importlib.import_module(MODULES[config.kind])
    check_fields(config)
    if config.kind == "characters":
        documents = itertools.chain.from_iterable(map(sources.read_documents, training))
        tokenizer = module.Characters.from_texts(document.text for document in documents)
        if not tokenizer.vocab_size:
            raise DataError(f"{training[0].path}: no text in it to take a vocabulary of characters from")
        return tokenizer
    tokenizer = module.load(config)
    for note in tokenizer.notes:
        report(note)
    return tokenizer


def check_fields(config: Config) -> None:
    """Raises FieldError where the config sets a field that this kind of tokenizer does not have."""
    if config.kind not in NAMEABLE and (config.start or config.end):
        kinds = f"{', '.join(NAMEABLE[:-1])} or {NAMEABLE[-1]}"
        raise FieldError(f"data.tokenizer.start and .end name tokens of a {kinds} tokenizer, not of {config.kind}")
    if config.kind != "ids" and config.vocab_size:
        raise FieldError(f"data.tokenizer.vocab_size is for the kind ids; a {config.kind} tokenizer knows its own")
    if config.kind == "ids" and not 0 < config.vocab_size < 1 << 31:
        raise FieldError(
            f"data.tokenizer.vocab_size: {config.vocab_size}; the kind ids needs the number of ids in the vocabulary "
            "that the data were tokenized with"
        )
    if config.kind in ("characters", "bytes") and config.start_prompts:
        raise FieldError(f"data.tokenizer.start_prompts: {config.kind} have no token that starts a text")


def check_ids(tokenizer: Tokenizer, ids: np.ndarray, origin: str) -> np.ndarray:
    """Token ids that come from outside, as int32 [t]. Raises DataError naming `origin` and the first that is none."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{origin}: {ids.dtype} is no type of token ids; write them as integers")
    outside = (ids < 0) | (ids >= tokenizer.vocab_size)
    if outside.any():
        index = int(np.argmax(outside))
        raise DataError(
            f"{origin}: id {ids[index]} at index {index} is none of the tokenizer's, 0 to {tokenizer.vocab_size - 1}; "
            "take the tokenizer, or the vocab_size, of the program that wrote the ids"
        )
    return ids.astype(np.int32)


def tokenizer_from_json(stored: dict) -> Tokenizer:
    """Builds the tokenizer that `to_json` stored, as in a checkpoint."""
    return importlib.import_module(MODULES[stored["kind"]]).from_json(stored)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of everything that decides how a tokenizer turns text into ids."""
    return hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()
