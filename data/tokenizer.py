"""Tokenizers: the protocol, and one made from a config or a checkpoint. Each kind has its own file."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Protocol

from data import sources
from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError, FieldError


class Tokenizer(Protocol):
    """Text to ids and back.

    `start_id` stands before every document, `end_id` behind it (data/documents.py); where a vocabulary has no token for
    the start it is the end's; None: there is none. `start_prompts`: prompts begin with `start_id`, too. `notes`: lines
    for the person who chose it.
    """

    vocab_size: int
    start_id: int | None
    end_id: int | None
    start_prompts: bool
    notes: Sequence[str]

    def encode(self, text: str) -> list[int]:
        """Raises DataError naming the first character that it does not know."""
        ...

    def decode(self, ids: list[int]) -> str: ...

    def first_bytes(self, text: str) -> int:
        """Bytes of UTF-8 that the text's first token stands for; a character is its last token's."""
        ...

    def to_json(self) -> dict:
        """Everything needed to build it again, its `kind` among it."""
        ...


MODULES = {  # imported where they are asked for: each brings a library of its own, and start-up should stay short
    "characters": "data.characters",
    "bytes": "data.byte_level",
    "sentencepiece": "data.sentencepiece_model",
    "gpt2": "data.gpt2_bpe",
    "json": "data.huggingface_json",
}


NAMED = ("json", "sentencepiece")  # kinds of which a config may name the tokens that start and end a document


def build_tokenizer(config: Config, source: Source, report: Callable[[str], None] = lambda _: None) -> Tokenizer:
    """The tokenizer of a config, its notes reported; `characters` learns its vocabulary from all of the source's text.

    Raises DataError for a file that is no tokenizer, and where `characters` finds no text.
    """
    module = importlib.import_module(MODULES[config.kind])
    check_fields(config)
    if config.kind == "characters":
        words = module.Characters.of(document.text for document in sources.read_documents(source))
        if not words.vocab_size:
            raise DataError(f"{source.path}: no text in it to take a vocabulary of characters from")
        return words
    words = module.load(config)
    for line in words.notes:
        report(line)
    return words


def check_fields(config: Config) -> None:
    """Raises FieldError for a token that such a tokenizer does not have."""
    if config.kind not in NAMED and (config.start or config.end):
        kinds = " or ".join(NAMED)
        raise FieldError(f"data.tokenizer.start and .end name tokens of a {kinds} tokenizer, not of {config.kind}")
    if config.kind in ("characters", "bytes") and config.start_prompts:
        raise FieldError(f"data.tokenizer.start_prompts: {config.kind} have no token that starts a text")


def tokenizer_from_json(stored: dict) -> Tokenizer:
    return importlib.import_module(MODULES[stored["kind"]]).from_json(stored)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of everything that decides how text becomes ids."""
    return hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()
