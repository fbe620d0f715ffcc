"""Which texts an engine works on: the queue, the rows of the memory, the pages that each text holds.

engine.py asks it before every dispatch. No device is touched here. The order is that of submission: nobody is overtaken
in the queue; where pages run out, the text that was submitted last gives its own back, and is read again later
("recompute", Kwon et al. 2023, 4.5). So the oldest text always goes on, and every text becomes the oldest in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.decode.pages import FIRST_KEY, PagePool, page_key
from model.decode.sequence import SequenceState


class QueueFull(RuntimeError):
    """No more texts may wait; the message is one line with the number and what works."""


@dataclass(eq=False)
class Row:
    """A text in an engine. The model sees its window: the ids from `start` on.

    `slot`: its row of the memory, None while it waits; `read`: tokens of the window that the memory holds; `kept`: how
    many of its pages, from the first on, can be found by their `keys`.
    """

    number: int
    text: SequenceState
    stop_ids: tuple[int, ...] = ()
    start: int = 0
    slot: int | None = None
    read: int = 0
    pages: list[int] = field(default_factory=list)
    kept: int = 0
    keys: list[bytes] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the window."""
        return len(self.text.ids) - self.start

    @property
    def unread(self) -> int:
        """Tokens to read before one can be drawn: all but the last, which is read when the next is drawn."""
        return self.length - 1 - self.read

    def next_tokens(self, count: int) -> list[int]:
        """The next unread tokens, at most so many."""
        first = self.start + self.read
        return self.text.ids[first : first + min(self.unread, count)]

    def end(self, context: int) -> int:
        """Tokens of the text at which it is finished, or its window full."""
        return min(self.text.limit, self.start + context)

    def key(self, index: int, size: int) -> bytes:
        """The key of a whole page of the window."""
        while len(self.keys) <= index:
            at = self.start + len(self.keys) * size
            self.keys.append(page_key(self.keys[-1] if self.keys else FIRST_KEY, self.text.ids[at : at + size]))
        return self.keys[index]


class Scheduler:
    """The texts of an engine with so many `slots` (texts at once), and the pages that they share.

    `shares`: whether texts with the same beginning share pages. `waiting_limit`: texts that may wait.
    """

    def __init__(self, slots: int, pool: PagePool, context: int, waiting_limit: int, shares: bool):
        self.pool, self.context, self.waiting_limit, self.shares = pool, context, waiting_limit, shares
        self.free_slots = list(range(slots - 1, -1, -1))
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # oldest first
        self.tokens_found, self.preemptions = 0, 0

    def submit(self, row: Row) -> None:
        """Puts a text at the end of the queue. Raises QueueFull."""
        if self.full:
            raise QueueFull(
                f"{len(self.waiting)} requests wait already, the most this engine takes; let it work, then submit again"
            )
        self.waiting.append(row)

    @property
    def full(self) -> bool:
        """Whether no more texts may wait."""
        return len(self.waiting) >= self.waiting_limit

    def cancel(self, row: Row) -> None:
        """Forgets a text, waiting or running."""
        if row.slot is None:
            self.waiting.remove(row)
        else:
            self.leave(row)

    def admit(self) -> None:
        """Gives waiting texts, in order, a row and the pages of their windows, as long as there are any."""
        while self.waiting and self.free_slots and self.fits(self.waiting[0]):
            row = self.waiting.popleft()
            row.slot = self.free_slots.pop()
            self.find(row)
            self.extend(row, row.length)
            self.running.append(row)

    def fits(self, row: Row) -> bool:
        """Whether pages are left for a text's window, and for one page more if it grows so far."""
        slots = min(row.length + self.pool.size, row.end(self.context) - row.start - 1)
        held = sum(self.pool.holders[page] > 0 for page in self.known_pages(row))
        return self.pool.pages_for(slots) - held <= self.pool.available

    def known_pages(self, row: Row) -> Iterator[int]:
        """The pages that hold the next unread tokens of a text already."""
        index = row.read // self.pool.size
        while self.shares and row.read % self.pool.size == 0 and (index + 1) * self.pool.size < row.length:
            page = self.pool.known(row.key(index, self.pool.size))
            if page is None:
                return
            yield page
            index += 1

    def find(self, row: Row) -> None:
        """Lets a text hold the pages that hold its next tokens already, in place of reading them."""
        for page in list(self.known_pages(row)):
            index = row.read // self.pool.size
            self.pool.hold(page)
            self.pool.release(row.pages[index : index + 1])
            row.pages[index : index + 1] = [page]
            row.read += self.pool.size
            row.kept = index + 1
            self.tokens_found += self.pool.size

    def extend(self, row: Row, slots: int) -> None:
        """Takes the pages that a text lacks for so many slots of its window."""
        while len(row.pages) < self.pool.pages_for(slots):
            row.pages.append(self.pool.take())

    def rows_to_read(self, limit: int, tokens: int) -> list[Row]:
        """The oldest texts with unread tokens, at most `limit`, with pages for so many of these tokens each.

        Of texts that begin the same only the oldest is read: the others find its pages when their turn comes.
        """
        rows, keys = [], set()
        for row in [row for row in self.running if row.unread]:
            if row.slot is None or len(rows) == limit:
                break
            self.find(row)
            key = self.next_key(row)
            if row.unread and key not in keys and self.reserve(row, min(row.read + tokens, row.length)):
                rows.append(row)
                keys |= {key} - {None}
        return rows

    def next_key(self, row: Row) -> bytes | None:
        """The key of the page that a text reads next; None if it will not be kept."""
        size = self.pool.size
        index = row.read // size
        return row.key(index, size) if self.shares and (index + 1) * size < row.length else None

    def rows_to_decode(self, steps: int) -> list[Row]:
        """The texts that are read to their ends, with pages for so many more tokens each."""
        for row in [row for row in self.running if not row.unread]:
            if row.slot is not None:
                self.reserve(row, min(row.length + steps, row.end(self.context) - row.start) - 1)
        return [row for row in self.running if not row.unread]

    def reserve(self, row: Row, slots: int) -> bool:
        """Takes the pages that a running text lacks for so many slots, from the youngest texts where none are left.

        False if it was the youngest itself and lost its own.
        """
        while row.slot is not None and self.pool.pages_for(slots) - len(row.pages) > self.pool.available:
            self.preempt(self.running[-1])
        if row.slot is not None:
            self.extend(row, slots)
        return row.slot is not None

    def preempt(self, row: Row) -> None:
        """Sends a running text back to the head of the queue, to be read anew."""
        self.leave(row)
        self.waiting.appendleft(row)
        self.preemptions += 1

    def advance(self, row: Row) -> None:
        """A text has new tokens in its memory: whole pages can be found from now on, a full window begins anew."""
        while self.shares and (row.kept + 1) * self.pool.size <= row.read:
            self.pool.keep(row.pages[row.kept], row.key(row.kept, self.pool.size))
            row.kept += 1
        if row.text.finish_reason:
            self.leave(row)
        elif row.length == self.context:
            self.forget(row)
            row.start = len(row.text.ids) - self.context // 2

    def leave(self, row: Row) -> None:
        """A text gives back its row of the memory and its pages."""
        self.forget(row)
        self.running.remove(row)
        self.free_slots.append(row.slot)
        row.slot = None

    def forget(self, row: Row) -> None:
        """A text gives back its pages; none of it is read."""
        self.pool.release(row.pages)
        row.pages, row.read, row.kept, row.keys = [], 0, 0, []
