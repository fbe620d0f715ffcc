"""The byte tokenizer: a token is a byte of UTF-8. 256 ids, any text, no file."""

from __future__ import annotations

from data.config import Tokenizer as Config


class Bytes:
    vocab_size = 256
    start_id = end_id = None
    start_prompts, notes = False, ()

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def first_token_bytes(self, text: str) -> int:
        return min(1, len(text))

    def to_json(self) -> dict:
        return {"kind": "bytes"}


def load(config: Config) -> Bytes:
    del config  # bytes have no settings
    return Bytes()


def from_json(stored: dict) -> Bytes:
    del stored
    return Bytes()
