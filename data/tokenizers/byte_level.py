"""The byte tokenizer: a token is a byte of UTF-8. 256 ids, any text, no file."""

from __future__ import annotations

import numpy as np

from data.config import Tokenizer as Config
from data.tokenizers.special_tokens import BoundaryToken


class Bytes:
    vocab_size = 256
    start_id = end_id = None
    start_prompts, notes = False, ()
    lossless = has_cut_points = True
    reads_ids = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        del continued  # no byte depends on another
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        return self.encode_array(text)

    def last_cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def first_token_bytes(self, text: str) -> int:
        return min(1, len(text))

    def token_bytes(self) -> list[bytes | None]:
        return [bytes([byte]) for byte in range(self.vocab_size)]

    def to_json(self) -> dict:
        return {"kind": "bytes"}


def load(config: Config) -> Bytes:
    del config  # bytes have no settings
    return Bytes()


def from_json(stored: dict) -> Bytes:
    del stored
    return Bytes()
