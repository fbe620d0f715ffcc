"""The sentence pairs of CrowS-Pairs, read from its file: crows_pairs.csv of github.com/nyu-mll/crows-pairs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.sources.csv_rows import column_index, read_rows
from data.sources.document import Refusal

DIRECTIONS = ("stereo", "antistereo")
COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")


class SentencePair(NamedTuple):
    """Two sentences that differ in whom they are about; `more` is the more stereotyping one.

    `direction`: `stereo` where `more` demonstrates a stereotype of a disadvantaged group, `antistereo` where `less`
    violates one."""

    more: str
    less: str
    direction: str
    bias_type: str


def read_pairs(path: str | Path) -> list[SentencePair]:
    """The pairs of a CSV file, in its order. Raises DataError naming the line of what is no pair."""
    try:
        with open(path, "rb") as stream:
            rows = read_rows(stream, str(path), ",")
            header = check_row(next(rows, ("", []))[1])
            columns = {name: column_index(header, name, str(path)) for name in COLUMNS}
            pairs = [read_pair(origin, check_row(cells), len(header), columns) for origin, cells in rows]
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name a CSV file of CrowS-Pairs") from None
    if not pairs:
        raise DataError(f"{path}: no pair below the header; name a CSV file of CrowS-Pairs")
    return pairs


def check_row(cells: list[str] | Refusal) -> list[str]:
    if isinstance(cells, Refusal):
        raise DataError(cells.reason)
    return cells


def read_pair(origin: str, cells: list[str], width: int, columns: dict[str, int]) -> SentencePair:
    if len(cells) != width:
        raise DataError(f"{origin}: the row has {len(cells)} cells and the header {width}")
    pair = SentencePair(*(cells[columns[name]] for name in COLUMNS))
    for name, value in zip(COLUMNS, pair, strict=True):
        if not value.strip():
            raise DataError(f"{origin}: {name} is empty; write it, or leave the row out")
    if pair.direction not in DIRECTIONS:
        raise DataError(f"{origin}: stereo_antistereo is {pair.direction!r}; it is one of {', '.join(DIRECTIONS)}")
    if pair.more == pair.less:
        raise DataError(f"{origin}: both sentences are {pair.more[:40]!r}; no model can tell them apart")
    return pair
