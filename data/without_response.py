"""Documents of prompt and response of which nothing counts in the loss: how many there are, and why.

data/pipeline.py reports them, and refuses a source that has no others.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np

from data.config import Source
from data.documents import Documents, Pieces
from data.errors import DataError
from data.sources.records import format_names
from data.sources.source import read_records
from data.templates import Template

RECORDS = 1000  # that are looked at to say which roles there are


def count_without_response(documents: Documents) -> int:
    """Documents that have targets, and none that counts in the loss; of preference pairs, none in both halves."""
    if documents.pieces is None:
        return 0
    halves = [documents] if documents.halves is None else [replace(documents, half=half) for half in (0, 1)]
    count = 0
    for numbers in documents.chunks():
        bounds = [half.bounds(numbers) for half in halves]
        targets = sum(each.targets for each in bounds)
        counted = sum(counted_tokens(documents.pieces, each.starts + 1, each.stops) for each in bounds)
        count += int(((targets > 0) & (counted == 0)).sum())
    return count


def counted_tokens(pieces: Pieces, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """How many of the tokens starts .. stops count in the loss, int64 [n]; none where a stop is before its start."""
    if not len(starts):
        return np.zeros(0, np.int64)
    first = np.searchsorted(pieces.starts, starts.min(), side="right") - 1
    last = np.searchsorted(pieces.starts, stops.max(), side="left")
    borders, counted = np.asarray(pieces.starts[first:last]), np.asarray(pieces.counted[first:last])
    before = np.concatenate([[0], np.cumsum(np.diff(borders) * counted[:-1])])  # each piece

    def count_before(places: np.ndarray) -> np.ndarray:
        piece = np.searchsorted(borders, places, side="right") - 1
        return before[piece] + (places - borders[piece]) * counted[piece]

    return count_before(np.maximum(starts, stops)) - count_before(starts)


def explain_lack(source: Source) -> str:
    """Why nothing of a source counts in the loss: what its records would have to have."""
    if source.template is None:
        return f"all its tokens are of prompts, every text of field {source.field!r} is empty"
    template = Template(source.template)
    if not template.is_chat:
        return "its template writes no response within {% generation %}…{% endgeneration %} of any record"
    roles = roles_of(source)
    there = f"; roles there: {format_names(roles)}" if roles else ""
    if template.marks_responses:
        return f"its chat template marks no response in any record{there}"
    return f"no message has the role 'assistant'{there}"


def roles_of(source: Source) -> list[str]:
    """The roles in the first RECORDS of a source, the commonest first; none where it can't be read any more."""
    roles: Counter[str] = Counter()
    try:
        for record, _ in itertools.islice(read_records(source, ["messages"]), RECORDS):
            roles.update(str(message.get("role")) for message in record["messages"])
    except DataError:  # it was read when its store was made
        pass
    return [role for role, _ in roles.most_common()]
