"""The engine's host side alone, at any sizes: every text is finished, and no page is written that others see."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decode.chain import Chain
from model.decode.draw import Drawn
from model.decode.pages import FIRST_KEY, PagePool, page_key
from model.decode.scheduler import Row, Scheduler
from model.decode.sequence import SequenceState


class Memory:
    """What would lie in the pages: the ids that each slot was written with, each with those before it in the window."""

    def __init__(self, pool: PagePool):
        self.pool, self.slots = pool, {}

    def write(self, row: Row, first: int, count: int) -> None:
        window = row.text.ids[row.start :]
        for slot in range(first, first + count):
            page = row.pages[slot // self.pool.size]
            assert self.pool.holders[page] == 1 and page not in self.pool.key_of_page and page != 0
            self.slots[page, slot % self.pool.size] = tuple(window[: slot + 1])

    def check(self, row: Row, count: int) -> None:
        """The first slots of a text hold what it has read."""
        window = row.text.ids[row.start :]
        for slot in range(count):
            assert self.slots[row.pages[slot // self.pool.size], slot % self.pool.size] == tuple(window[: slot + 1])


def step(scheduler: Scheduler, memory: Memory, random, piece: int, steps: int) -> int:
    """What an engine does in a step, with random draws. The number of tokens read and drawn."""
    scheduler.admit()
    done = 0
    for row in scheduler.rows_to_read(2, piece):
        memory.check(row, row.read)
        count = min(row.unread, piece)
        memory.write(row, row.read, count)
        row.read, done = row.read + count, done + count
        scheduler.advance(row)
    for row in scheduler.rows_to_decode(steps):
        memory.check(row, row.length - 1)
        room = row.end(scheduler.context) - len(row.text.ids)
        count = min(steps, room)
        stops = random.random() < 0.1
        first = row.length - 1
        tokens = np.append(random.integers(0, 2, count - stops), [-1] * stops)
        draws = Drawn(tokens, *[np.zeros(count)] * 4, np.full(count, -1))
        row.text.add(draws, bool(stops) or count == room, row.end(scheduler.context))
        memory.write(row, first, row.length - 1 - first)
        row.read, done = row.length - 1, done + count
        scheduler.advance(row)
    return done


def progress(row: Row) -> tuple:
    return row.start, row.read, len(row.text.ids), row.text.finish_reason


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_every_text_is_finished_whatever_the_sizes(data):
    size, context = data.draw(st.integers(1, 9), "page size"), data.draw(st.integers(2, 24), "context")
    needed = -(-(context - 1) // size)
    pool = PagePool(1 + needed + data.draw(st.integers(0, 2 * needed), "spare pages"), size)
    scheduler = Scheduler(data.draw(st.integers(1, 4), "slots"), pool, context, 99, data.draw(st.booleans(), "shares"))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    rows = []
    for number in range(data.draw(st.integers(1, 7), "texts")):
        prompt = random.integers(0, 2, random.integers(1, context)).tolist()  # of two ids: many begin the same
        text = SequenceState(prompt, Chain(), 0, 0, len(prompt), len(prompt) + int(random.integers(1, 2 * context)))
        rows.append(Row(number, text))
        scheduler.submit(rows[-1])
    memory, admitted = Memory(pool), []
    while scheduler.waiting or scheduler.running:
        oldest = (scheduler.running or scheduler.waiting)[0]
        before = progress(oldest)
        assert step(scheduler, memory, random, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
        assert progress(oldest) != before, "the oldest text goes on at every step"
        admitted += [row.number for row in scheduler.running if row.number not in admitted]
        assert [row.number for row in scheduler.running] == sorted(row.number for row in scheduler.running)
        held = [page for row in scheduler.running for page in row.pages]
        assert all(pool.holders[page] == held.count(page) for page in range(pool.count))
    assert all(row.text.finish_reason for row in rows)
    assert pool.available == pool.count - 1
    assert scheduler.tokens_found == 0 or scheduler.shares


def test_the_key_of_a_page_depends_on_all_ids_before_it_and_on_their_borders():
    first = page_key(FIRST_KEY, [1, 2])
    keys = {page_key(first, [3]), page_key(FIRST_KEY, [3]), page_key(FIRST_KEY, [1, 2, 3]), first}
    assert len(keys) == 4


def test_a_page_that_is_known_is_taken_last_and_the_longest_idle_of_them_first():
    pool = PagePool(4, 2)
    pages = [pool.take() for _ in range(3)]
    for page in pages[:2]:
        pool.keep(page, page_key(FIRST_KEY, [page]))
    pool.release(pages)
    assert pool.take() == pages[2]
    assert pool.take() == pages[1], "of one text the last page goes first"
    assert pool.known(page_key(FIRST_KEY, [pages[0]])) == pages[0]
    assert pool.known(page_key(FIRST_KEY, [pages[1]])) is None
