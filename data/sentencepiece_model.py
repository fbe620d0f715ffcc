"""A SentencePiece .model file (Kudo & Richardson 2018)."""

from __future__ import annotations

import base64
from pathlib import Path

import sentencepiece

from data.errors import DataError


class SentencePiece:
    def __init__(self, model: bytes):
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        end = self.processor.eos_id()
        self.end_id = end if end >= 0 else None

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def to_json(self) -> dict:
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode()}


def load(path: str) -> SentencePiece:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file; a sentencepiece tokenizer's path is a .model file")
    try:
        return SentencePiece(file.read_bytes())
    except RuntimeError as error:
        raise DataError(f"{file}: not a SentencePiece model ({str(error).splitlines()[0]})") from None


def from_json(stored: dict) -> SentencePiece:
    return SentencePiece(base64.b64decode(stored["model"]))
