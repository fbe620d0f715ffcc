"""The character tokenizer: the vocabulary is every character of a text, sorted (nanoGPT's shakespeare_char).

data/tokenizers/tokenizer.py builds it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data.errors import DataError
from data.tokenizers.special_tokens import BoundaryToken


class Characters:
    start_id = end_id = None
    start_prompts, notes = False, ()
    lossless = has_cut_points = True
    reads_ids = False

    def __init__(self, alphabet: str):
        self.alphabet = alphabet
        self.vocab_size = len(alphabet)
        code_points = np.array([ord(c) for c in alphabet], np.int64)
        self.ids = np.full(int(code_points.max(initial=0)) + 1, -1, np.int32)
        self.ids[code_points] = np.arange(len(alphabet))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Characters:
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls("".join(sorted(seen)))

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        """One id per character. Raises DataError naming the first character outside the alphabet, and its offset."""
        del continued  # no character depends on another
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        ids = np.where(code_points < len(self.ids), self.ids[np.minimum(code_points, len(self.ids) - 1)], -1)
        if (ids < 0).any():
            offset = int(np.argmax(ids < 0))
            printable = "".join(c for c in self.alphabet if c.isprintable())
            raise DataError(
                f"character {text[offset]!r} (U+{ord(text[offset]):04X}) at offset {offset} is not among the "
                f"tokenizer's {self.vocab_size}: {printable[:80]}"
            )
        return ids.astype(np.int32)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        return self.encode_array(text)

    def last_cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)

    def first_token_bytes(self, text: str) -> int:
        return len(text[:1].encode("utf-8"))

    def token_bytes(self) -> list[bytes | None]:
        return [character.encode("utf-8", "surrogatepass") for character in self.alphabet]

    def to_json(self) -> dict:
        return {"kind": "characters", "alphabet": self.alphabet}


def from_json(stored: dict) -> Characters:
    return Characters(stored["alphabet"])
