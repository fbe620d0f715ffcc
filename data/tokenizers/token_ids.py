"""The tokenizer of data that are token ids already, in decimal numbers. data/tokenizers/tokenizer.py builds it."""

from __future__ import annotations

import re

import numpy as np

from data.config import Tokenizer as Config
from data.errors import DataError
from data.tokenizers.special_tokens import BoundaryToken, SpecialTokens, missing_end_notice, resolve_special_tokens

UP_TO_LAST_CUT = re.compile(r"(?s:.*)(?=\s)")  # no number goes on behind white space


class TokenIds:
    """Ids below `vocab_size`, from another tokenizer that is not known here. As text, "50256 12 7"."""

    lossless, has_cut_points = False, True  # of the white space between numbers nothing is kept
    reads_ids = True

    def __init__(self, vocab_size: int, tokens: SpecialTokens, notes: tuple[str, ...] = ()):
        self.vocab_size, self.tokens, self.notes = vocab_size, tokens, notes
        self.start_id, self.end_id, self.start_prompts = tokens

    def encode(self, text: str) -> list[int]:
        """The ids that are written in a text. Raises DataError naming the first word that is none."""
        words = text.split()
        ids = [parse_id(word, self.vocab_size) for word in words]
        if None in ids:
            word = words[ids.index(None)]
            offset = next(match.start() for match in re.finditer(r"\S+", text) if match[0] == word)
            raise DataError(
                f"{word[:40]!r} at offset {offset} is no id from 0 to {self.vocab_size - 1}: these data are token ids; "
                "write them as decimal numbers with spaces between them"
            )
        return ids

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        del continued  # nothing is put in front of a text
        return np.array(self.encode(text), np.int32)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        return self.encode_array(text)

    def last_cut(self, text: str) -> int:
        match = UP_TO_LAST_CUT.match(text)
        return match.end() if match else 0

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def first_token_bytes(self, text: str) -> int:
        return re.match(r"\s*\S*", text).end()

    def token_bytes(self) -> list[bytes | None]:
        return [None] * self.vocab_size  # only the other tokenizer knows them

    def to_json(self) -> dict:
        return {"kind": "ids", "vocab_size": self.vocab_size, **self.tokens._asdict()}


def parse_id(word: str, vocab_size: int) -> int | None:
    """The id that a word is in decimal digits, None where it is none of the vocabulary."""
    id_ = int(word) if re.fullmatch("[0-9]{1,10}", word) else vocab_size
    return id_ if id_ < vocab_size else None


def load(config: Config) -> TokenIds:
    name = f"the ids from 0 to {config.vocab_size - 1}"
    tokens = resolve_special_tokens(config, name, lambda token: parse_id(token, config.vocab_size), None, None)
    return TokenIds(config.vocab_size, tokens, tuple(missing_end_notice("the kind ids", tokens)))


def from_json(stored: dict) -> TokenIds:
    return TokenIds(stored["vocab_size"], SpecialTokens(*(stored[name] for name in SpecialTokens._fields)))
