"""The regular expressions that constrained decoding takes: those that Python and the grammar library read alike.

launch/inference/grammar.py compiles them, launch/inference/json_schema.py checks the patterns of schemas.
"""

from __future__ import annotations

import re
import warnings

PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^)]?[^)]?|(?:[*+?]|\{[0-9,]*\})[?+]?|.", re.DOTALL)
ESCAPES = re.compile(
    r"\\(?:[dDwWsSnrtfva]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[^0-9A-Za-z<>\x80-\U0010ffff])"
)


class PatternError(ValueError):
    """A regular expression can't be obeyed; the message is a part of a line."""


def check_pattern(pattern: str) -> None:
    r"""Raises PatternError where Python and the library would read a pattern in different ways, or not at all.

    With \d, \w and \s of ASCII they agree on all that is left.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # of sets within sets, which the library has and Python not
            re.compile(pattern, re.ASCII)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise PatternError(f"{pattern!r} is no regular expression ({error})") from None
    for part in PART.findall(pattern):
        if part.startswith("(?") and part[2:3] != ":" and part[2:4] != "P<":
            raise PatternError(f"{part!r} in {pattern!r}: flags, looking around and comments are not supported")
        if re.fullmatch(r"(?:[*+?]|\{[0-9,]*\})\+", part) or part.startswith("{,"):
            raise PatternError(f"{part!r} in {pattern!r} is not supported; write another repetition")
        for escape in re.findall(r"\\(?:x..|u.{4}|U.{8}|.)", part, re.DOTALL):
            if not ESCAPES.fullmatch(escape):
                raise PatternError(f"{escape!r} in {pattern!r} is not supported; escapes are of one character")
