"""Tokenizers: the protocol, and one made from a config or a checkpoint. Each kind has its own file."""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Protocol

from data import sources
from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError


class Tokenizer(Protocol):
    """Text to ids and back. `end_id` is put after every document of a store; None: nothing is."""

    vocab_size: int
    end_id: int | None

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

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


def build(config: Config, source: Source) -> Tokenizer:
    """The tokenizer of a config; `characters` learns its vocabulary from all of the source's text.

    Raises DataError for a file that is no tokenizer, and where `characters` finds no text.
    """
    module = importlib.import_module(MODULES[config.kind])
    if config.kind == "characters":
        words = module.Characters.of(document.text for document in sources.documents(source))
        if not words.vocab_size:
            raise DataError(f"{source.path}: no text in it to take a vocabulary of characters from")
        return words
    return module.load(config.path)


def from_json(stored: dict) -> Tokenizer:
    return importlib.import_module(MODULES[stored["kind"]]).from_json(stored)


def fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of everything that decides how text becomes ids."""
    return hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()
