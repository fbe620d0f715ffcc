"""GPT-2's byte pairs from vocab.json and merges.txt, through tiktoken: Hugging Face's ids, several times faster."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import tiktoken

from data.errors import DataError

# Words, numbers, punctuation and white space, as GPT-2 splits text before merging (Radford et al. 2019, 2.2).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END = "<|endoftext|>"


@functools.cache
def byte_of() -> dict[str, int]:
    """GPT-2's files write each byte as one printable character: this is the way back."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


class GPT2:
    def __init__(self, ranks: dict[bytes, int], end_id: int):
        self.ranks, self.end_id = ranks, end_id
        self.vocab_size = max(end_id, *ranks.values()) + 1
        special = {END: end_id}
        self.encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        """`<|endoftext|>` in a text is text: only end_id itself ends a document."""
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode(ids)

    def to_json(self) -> dict:
        ordered = sorted(self.ranks, key=self.ranks.__getitem__)
        return {"kind": "gpt2", "tokens": [t.hex() for t in ordered], "end_id": self.end_id}


def load(path: str) -> GPT2:
    """From a folder with vocab.json and merges.txt. A merge's rank is its id, as in GPT-2's own files."""
    folder = Path(path).expanduser()
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: no such file; a gpt2 tokenizer's path is a folder with vocab.json and merges.txt"
            )
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    back = byte_of()
    ranks = {bytes(back[c] for c in token): id_ for token, id_ in vocabulary.items() if token != END}
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    for (left, right), rank in zip(merges, range(256, 256 + len(merges)), strict=True):
        if vocabulary.get(left + right) != rank:
            raise DataError(
                f"{folder}: merge {left} {right} is not token {rank} of vocab.json; try the tokenizer.json instead"
            )
    return GPT2(ranks, vocabulary.get(END, len(ranks)))


def from_json(stored: dict) -> GPT2:
    return GPT2({bytes.fromhex(token): rank for rank, token in enumerate(stored["tokens"])}, stored["end_id"])
