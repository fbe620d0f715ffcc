"""Texts in which start and end tokens stand, as templates write them (`bos_token`, `eos_token`).

data/templates.py makes them; stores and prompts have the tokenizer's ids in these places.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from data.tokenizers.special_tokens import BoundaryToken

Content = str | BoundaryToken


class WrittenText(str):
    """A text with start and end tokens. As a str it is the text alone; `contents` are the texts between the tokens and
    the tokens, in order. It is true where it holds either."""

    contents: tuple[Content, ...]

    def __new__(cls, contents: Iterable[Content]) -> WrittenText:
        joined: list[Content] = []
        for is_text, group in itertools.groupby(contents, key=lambda content: isinstance(content, str)):
            joined += [text for text in ("".join(group),) if text] if is_text else group
        self = super().__new__(cls, "".join(content for content in joined if isinstance(content, str)))
        self.contents = tuple(joined)
        return self

    def __getnewargs__(self) -> tuple:
        return (self.contents,)

    def __bool__(self) -> bool:
        return bool(self.contents)

    def __add__(self, other: str) -> WrittenText:
        return WrittenText((*self.contents, *contents_of(other)))

    def rstrip(self, characters: str | None = None) -> WrittenText:
        """Without white space at the end, up to the last token."""
        *before, last = (*self.contents, "")[: len(self.contents) or 1]
        return WrittenText((*before, last.rstrip(characters) if isinstance(last, str) else last))


def contents_of(text: str) -> tuple[Content, ...]:
    """What a text is made of: itself, where it holds no token."""
    return text.contents if isinstance(text, WrittenText) else (text,)


def join_texts(texts: Iterable[str]) -> str:
    """The texts as one, with their tokens; a plain str where there are none."""
    joined = WrittenText(itertools.chain.from_iterable(map(contents_of, texts)))
    return joined if any(isinstance(content, BoundaryToken) for content in joined.contents) else str(joined)
