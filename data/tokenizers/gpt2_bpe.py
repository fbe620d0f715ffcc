"""GPT-2's byte-pair encoding from vocab.json and merges.txt: Hugging Face's ids by tiktoken, several times faster.

data/tokenizers/tokenizer.py builds it.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np
import tiktoken

from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources.files import expand_home
from data.tokenizers.special_tokens import BoundaryToken

# Words, numbers, punctuation and white space, as GPT-2 splits text before merging (Radford et al. 2019, 2.2).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# Up to the last place where white space stands behind something else: any text may be cut there. In PATTERN a match has
# white space only as its first character, or is white space as a whole. So no match goes across the cut. A match that
# ends there ends at white space and at the end of a text alike, and the only alternatives that look at what follows,
# those of white space, end further left, where they see the same in both texts. None looks behind itself, so what is
# behind the cut is matched like a text of its own. White space is Unicode's here; Python's \s has four characters more.
UP_TO_LAST_CUT = re.compile(r"(?s:.*)\S(?=[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])")
END_OF_TEXT = "<|endoftext|>"
ID_LIMIT = 1 << 24  # no vocabulary comes near it; a larger id is a mistake that would fill the memory


@functools.cache
def byte_decoder() -> dict[str, int]:
    """The byte that each character of GPT-2's files stands for: they write every byte as one printable character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(unprintable)}


class GPT2:
    """GPT-2's tokenizer. One token, `<|endoftext|>`, starts and ends documents."""

    notes = ()
    lossless = has_cut_points = True
    reads_ids = False

    def __init__(self, ranks: dict[bytes, int], end_id: int, start_prompts: bool):
        self.ranks, self.start_id, self.end_id, self.start_prompts = ranks, end_id, end_id, start_prompts
        self.vocab_size = max(end_id, *ranks.values()) + 1
        special = {END_OF_TEXT: end_id}
        self.encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. `<|endoftext|>` written in it is ordinary text: only end_id itself ends a document."""
        return self.encoding.encode_ordinary(text)

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        del continued  # nothing is put in front of a text
        return self.encoding.encode_to_numpy(text, disallowed_special=()).view(np.int32)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        return self.encode_array(text)

    def last_cut(self, text: str) -> int:
        match = UP_TO_LAST_CUT.match(text)
        return match.end() if match else 0

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode(ids)

    def first_token_bytes(self, text: str) -> int:
        return len(self.encoding.decode_single_token_bytes(self.encode(text)[0])) if text else 0

    def token_bytes(self) -> list[bytes | None]:
        token_of = {rank: token for token, rank in self.ranks.items()}
        return [token_of.get(id_) for id_ in range(self.vocab_size)]

    def to_json(self) -> dict:
        """Everything that builds it again; `tokens` by id, None where an id has no token."""
        tokens: list[str | None] = [None] * (max(self.ranks.values()) + 1)
        for token, rank in self.ranks.items():
            tokens[rank] = token.hex()
        return {"kind": "gpt2", "tokens": tokens, "end_id": self.end_id, "start_prompts": self.start_prompts}


def load(config: Config) -> GPT2:
    """Reads a folder with vocab.json and merges.txt. The rank of a merge is its id, as in GPT-2's own files."""
    folder = expand_home(config.path)
    vocabulary, merges = read_vocabulary(folder / "vocab.json"), read_merges(folder / "merges.txt")
    byte_of = byte_decoder()
    ranks = {bytes(byte_of[c] for c in token): id_ for token, id_ in vocabulary.items() if token != END_OF_TEXT}
    for rank, (left, right) in enumerate(merges, 256):
        if vocabulary.get(left + right) != rank:
            raise DataError(
                f"{folder}: merge {left} {right} is not token {rank} of vocab.json; try the tokenizer.json instead"
            )
    return GPT2(ranks, vocabulary.get(END_OF_TEXT, max(ranks.values()) + 1), bool(config.start_prompts))


def read_vocabulary(file: Path) -> dict[str, int]:
    """Ids by token, from vocab.json. Raises DataError for everything that tiktoken would panic at."""
    try:
        vocabulary = json.loads(read_utf8(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error}); a vocab.json is an object of ids by token") from None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not all(isinstance(i, int) and 0 <= i < ID_LIMIT for i in ids) or len(set(ids)) < len(ids):
        raise DataError(f"{file}: not an object of ids by token, each a number of its own from 0 to {ID_LIMIT - 1}")
    if missing := sorted(byte_decoder().keys() - vocabulary.keys()):
        raise DataError(f"{file}: no token for byte {missing[0]!r}; a gpt2 vocabulary has all 256")
    if invalid := [token for token in vocabulary if token != END_OF_TEXT and not set(token) <= byte_decoder().keys()]:
        raise DataError(f"{file}: token {invalid[0]!r} is not written in bytes; try the tokenizer.json instead")
    return vocabulary


def read_merges(file: Path) -> list[list[str]]:
    """The pairs of merges.txt, first merged first. Raises DataError naming the line that is no pair."""
    lines = enumerate(read_utf8(file).split("\n"), 1)
    merges = {line_number: line.split(" ") for line_number, line in lines if line and not line.startswith("#version")}
    for line_number, tokens in merges.items():
        if len(tokens) != 2:
            raise DataError(
                f"{file}:{line_number}: {' '.join(tokens)[:80]!r} is not two tokens with a space between them"
            )
    return list(merges.values())


def read_utf8(file: Path) -> str:
    if not file.is_file():
        raise DataError(f"{file}: no such file; a gpt2 tokenizer's path is a folder with vocab.json and merges.txt")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}") from None


def from_json(stored: dict) -> GPT2:
    ranks = {bytes.fromhex(token): rank for rank, token in enumerate(stored["tokens"]) if token is not None}
    return GPT2(ranks, stored["end_id"], stored["start_prompts"])
