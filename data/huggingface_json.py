"""Any Hugging Face tokenizer.json, through the tokenizers library."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from data.errors import DataError

ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")  # the usual names of the token after a document


class HuggingFace:
    def __init__(self, content: str):
        self.content = content
        self.tokenizer = tokenizers.Tokenizer.from_str(content)
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1  # not their count: added tokens may leave holes
        ends = (self.tokenizer.token_to_id(name) for name in ENDS)
        self.end_id = next((i for i in ends if i is not None), None)

    def encode(self, text: str) -> list[int]:
        """A special token written out in a text is that token, as everywhere with such files."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def to_json(self) -> dict:
        return {"kind": "json", "content": self.content}


def load(path: str) -> HuggingFace:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file; a json tokenizer's path is a Hugging Face tokenizer.json")
    try:
        return HuggingFace(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for whatever it can't parse
        raise DataError(f"{file}: not a tokenizer.json ({error})") from None


def from_json(stored: dict) -> HuggingFace:
    return HuggingFace(stored["content"])
