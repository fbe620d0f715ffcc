"""Cuts a long text into segments that are tokenized one after another: same ids, bounded memory.

data/store/segments.py encodes documents by segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data.errors import DataError
from data.tokenizers.tokenizer import Tokenizer

# In characters. Libraries take up to 200 bytes of memory for a byte of text: 200 MiB at the bound for ASCII text.
SEGMENT_LENGTH = 1 << 16  # long enough that the cost of a call does not matter
MAX_SEGMENT_LENGTH = 1 << 20
MAX_WHOLE_LENGTH = 1 << 21  # where a tokenizer has no cut points, and a text is one segment


def segments(tokenizer: Tokenizer, parts: Iterable[str], origin: str) -> Iterator[tuple[str, bool]]:
    """The segments of a text that comes in `parts`: (text, whether it continues the segment before).

    `tokenizer.encode_array(text, continued)` of all segments, joined, are the ids of the whole text. A segment ends at
    the last cut point in SEGMENT_LENGTH characters; where there is none, in twice as many, and so on. So segments do
    not depend on where the parts end, and a text of SEGMENT_LENGTH at most is one segment. Raises DataError naming
    `origin` where there is no cut point in MAX_SEGMENT_LENGTH characters (MAX_WHOLE_LENGTH where the tokenizer has none
    at all) and the text goes on.
    """
    bound = MAX_SEGMENT_LENGTH if tokenizer.has_cut_points else MAX_WHOLE_LENGTH
    rest, offset, window = "", 0, SEGMENT_LENGTH
    for chunk in chunks(parts):
        rest += chunk
        while len(rest) > window:
            if cut := tokenizer.last_cut(rest[:window]):
                yield rest[:cut], offset > 0
                rest, offset, window = rest[cut:], offset + cut, SEGMENT_LENGTH
            elif window == bound:
                raise DataError(no_cut_message(tokenizer, origin, offset, bound))
            else:
                window *= 2
    if rest:
        yield rest, offset > 0


def chunks(parts: Iterable[str]) -> Iterator[str]:
    """The parts, those longer than SEGMENT_LENGTH in slices of that length: a caller may hold all its text already."""
    for part in parts:
        for start in range(0, len(part), SEGMENT_LENGTH):
            yield part[start : start + SEGMENT_LENGTH]


def no_cut_message(tokenizer: Tokenizer, origin: str, offset: int, bound: int) -> str:
    if tokenizer.has_cut_points:
        return (
            f"{origin}: in {bound:,} characters from offset {offset} on there is no place where the tokenizer surely "
            "begins a new token, so the text is too long to be tokenized; put spaces or line ends between its words, "
            "divide the document, or take another tokenizer"
        )
    return (
        f"{origin}: longer than {bound:,} characters, the most that this tokenizer can be given at once: nothing in "
        "its file says where it surely begins a new token; divide the document, or take another tokenizer"
    )
