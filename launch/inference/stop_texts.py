"""Texts that end a text, found while it is written, over the borders of tokens and of dispatches alike.

launch/inference/text.py calls it for `--stop` and for the ends of a chain.
"""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str], searched: int = 0) -> int | None:
    """Where a text ends: the offset at which the first stop text begins. None: it holds none.

    The first is the one that was complete first, of several at once the longest: so that what ends a text does not
    depend on how much of it came at a time. `searched`: the first characters that hold no stop text as a whole.
    """
    found = []
    for stop in stops:
        offset = text.find(stop, max(searched - len(stop) + 1, 0))
        if offset >= 0:
            found.append((offset + len(stop), offset))
    return min(found)[1] if found else None


def shown_length(text: str, stops: Sequence[str]) -> int:
    """The characters of a text that may be shown: all but an end with which a stop text may have begun."""
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return len(text) - max(begun, default=0)
