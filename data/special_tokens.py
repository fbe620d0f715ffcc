"""The tokens that stand before and behind documents: a vocabulary's own, or those that a config names.

The kinds of tokenizer whose files may have them settle them here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data.config import Tokenizer as Config
from data.errors import FieldError


class SpecialTokens(NamedTuple):
    """Fields of data.tokenizer.Tokenizer, as a tokenizer stores them."""

    start_id: int | None
    end_id: int | None
    start_prompts: bool


def resolve(
    config: Config, path: Path, id_of: Callable[[str], int | None], start_id: int | None, end_id: int | None
) -> SpecialTokens:
    """What the config names, else the file's own `start_id` and `end_id`; a start that is still open is the end.

    `id_of` a token's text: its id or None. Raises FieldError where the config names none of the file's tokens.
    """
    start_id = token_id(config.start, "start", path, id_of) if config.start else start_id
    end_id = token_id(config.end, "end", path, id_of) if config.end else end_id
    start_id = end_id if start_id is None else start_id
    own = start_id is not None and start_id != end_id
    return SpecialTokens(start_id, end_id, own if config.start_prompts is None else config.start_prompts)


def token_id(token: str, field: str, path: Path, id_of: Callable[[str], int | None]) -> int:
    found = id_of(token)
    if found is None:
        raise FieldError(f"data.tokenizer.{field}: {token!r} is no token of {path}")
    return found


def missing_end_notice(path: Path, tokens: SpecialTokens) -> list[str]:
    """A line where nothing ends a document."""
    if tokens.end_id is not None:
        return []
    return [
        f"{path} marks no token as the end of a text: what is written will not end by itself; "
        f"data.tokenizer.end=TOKEN names one of its tokens"
    ]
