"""Places between the words of a text where tokenizers may provably begin a new token, and the search for the last one.

data/tokenizers/json_cut_points.py and data/tokenizers/sentencepiece_model.py say which of them hold for a file.
"""

from __future__ import annotations

import enum
import functools
import unicodedata
from collections.abc import Collection


class Border(enum.Enum):
    """SPACE: in front of one space between two word characters. LINE: behind one newline, which stands behind a visible
    character and in front of a word character."""

    SPACE = " "
    LINE = "\n"


@functools.cache
def is_word_character(character: str) -> bool:
    """Whether a character is a letter or a number, and stays letters and numbers under every normalization of Unicode.

    It must have been one in Unicode 3.2 already: libraries have tables of different ages.
    """
    return unicodedata.ucd_3_2_0.category(character)[0] in "LN" and all(
        unicodedata.category(c)[0] in "LN" for c in unicodedata.normalize("NFKD", character)
    )


def last_border(text: str, borders: Collection[Border]) -> int:
    """The last offset in a text, above 0, where there is one of these borders; 0: there is none."""
    space = last_space(text) if Border.SPACE in borders else 0
    return max(space, last_line(text) if Border.LINE in borders else 0)


def last_space(text: str) -> int:
    place = len(text) - 1
    while (place := text.rfind(" ", 1, place)) > 0:
        if is_word_character(text[place - 1]) and is_word_character(text[place + 1]):
            return place
    return 0


def last_line(text: str) -> int:
    place = len(text) - 1
    while (place := text.rfind("\n", 1, place)) > 0:
        if unicodedata.category(text[place - 1])[0] in "LNPS" and is_word_character(text[place + 1]):
            return place + 1
    return 0
