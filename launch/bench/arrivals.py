"""Figures of a decoder from the times at which its tokens arrive: the same arithmetic for ours and for a peer's.

launch/bench/decoding.py and huggingface.py call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Arrival(NamedTuple):
    """Tokens that arrived together. `seconds`: since the request; `tokens`: of all rows."""

    seconds: float
    tokens: int


def decoding_figures(arrivals: Sequence[Arrival], batch: int) -> dict[str, float]:
    """Speeds and the first token's latency, of `batch` rows.

    `tokens_per_second` counts all tokens and all the time, the prompt's reading included. Decoding alone is what came
    after the first arrival, over the time from the first arrival to the last. `first_tokens`: of a row, that arrived
    at first, together.
    """
    first, last = arrivals[0], arrivals[-1]
    tokens = sum(arrival.tokens for arrival in arrivals)
    return {
        "tokens_per_second": tokens / last.seconds,
        "decoding_tokens_per_second": (tokens - first.tokens) / (last.seconds - first.seconds),
        "first_token_seconds": first.seconds,
        "first_tokens": first.tokens / batch,
    }
