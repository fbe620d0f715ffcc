"""The protocol of a tokenizer. data/store.py encodes with one, launch/ decodes; each kind has its own file."""

from typing import Protocol


class Tokenizer(Protocol):
    vocab_size: int
    fingerprint: str  # sha256 of everything that decides how text becomes ids
    end_id: int | None  # put after every document when several are joined; None: nothing is put

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...
    def to_json(self) -> dict: ...  # enough by itself to build it again: checkpoints carry it
