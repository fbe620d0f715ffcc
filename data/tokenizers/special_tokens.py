"""The tokens before and behind documents: those that a config names, or else those of the tokenizer's file.

data/tokenizers/sentencepiece_model.py and data/tokenizers/huggingface_json.py choose theirs here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data.config import Tokenizer as Config
from data.errors import FieldError


class BoundaryToken(enum.Enum):
    """A tokenizer's start or end token, by its field of Tokenizer, where it is written between texts."""

    START = "start_id"
    END = "end_id"

    def id_of(self, tokenizer) -> int | None:
        return getattr(tokenizer, self.value)


class SpecialTokens(NamedTuple):
    """The fields of that name of data.tokenizer.Tokenizer, as a tokenizer stores them."""

    start_id: int | None
    end_id: int | None
    start_prompts: bool


def resolve_special_tokens(
    config: Config, path: Path | str, token_to_id: Callable[[str], int | None], start_id: int | None, end_id: int | None
) -> SpecialTokens:
    """The tokens that the config names, else the file's own `start_id` and `end_id`; without a start token the end's.

    `token_to_id` returns the id of a token's text, or None. Raises FieldError where the config names a token that the
    file does not have.
    """
    start_id = named_token_id(config.start, "start", path, token_to_id) if config.start else start_id
    end_id = named_token_id(config.end, "end", path, token_to_id) if config.end else end_id
    start_id = end_id if start_id is None else start_id
    has_own_start = start_id is not None and start_id != end_id
    return SpecialTokens(start_id, end_id, has_own_start if config.start_prompts is None else config.start_prompts)


def named_token_id(token: str, field: str, path: Path | str, token_to_id: Callable[[str], int | None]) -> int:
    id_ = token_to_id(token)
    if id_ is None:
        raise FieldError(f"data.tokenizer.{field}: {token!r} is no token of {path}")
    return id_


def missing_end_notice(path: Path | str, tokens: SpecialTokens) -> list[str]:
    """A line for the user where no token ends a document, else none."""
    if tokens.end_id is not None:
        return []
    return [
        f"{path} marks no token as the end of a text: what is written will not end by itself; "
        f"data.tokenizer.end=TOKEN names one of its tokens"
    ]
