"""The pages of a paged memory (model/cache.py): which are free, which texts hold them, which can be found again.

A page that is full is kept under a key, a hash of its ids and of all ids before them, so that later texts that begin
the same hold it too (Kwon et al. 2023, 4.4). scheduler.py calls it. No device is touched here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

FIRST_KEY = b""  # the key before the first page of a text


def page_key(previous: bytes, ids: Sequence[int]) -> bytes:
    """The key of a page that holds these ids behind pages whose last has the key `previous`."""
    return hashlib.sha256(previous + np.asarray(ids, "<i4").tobytes()).digest()


class PagePool:
    """Counts the holders of each page. Page 0 is never given out: what is not real is written there.

    A page that nobody holds is free, or idle if it has a key: then it can still be found, until it is needed. The page
    that has been idle for longest goes first.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self.holders = [0] * count
        self.free = list(range(count - 1, 0, -1))
        self.idle: OrderedDict[int, None] = OrderedDict()  # longest idle first
        self.key_of_page: dict[int, bytes] = {}
        self.page_of_key: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """How many pages can be taken."""
        return len(self.free) + len(self.idle)

    def pages_for(self, slots: int) -> int:
        """How many pages hold so many slots."""
        return -(-slots // self.size)

    def take(self) -> int:
        """A page for new tokens; what it held before is forgotten."""
        page = self.free.pop() if self.free else self.idle.popitem(last=False)[0]
        if key := self.key_of_page.pop(page, None):
            del self.page_of_key[key]
        self.holders[page] = 1
        return page

    def known(self, key: bytes) -> int | None:
        """The page that is kept under a key."""
        return self.page_of_key.get(key)

    def hold(self, page: int) -> None:
        """One more text holds a known page."""
        self.idle.pop(page, None)
        self.holders[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """A text holds its pages no longer. Its last pages go first when pages are needed: they are worth least."""
        for page in reversed(pages):
            self.holders[page] -= 1
            if not self.holders[page] and page in self.key_of_page:
                self.idle[page] = None
            elif not self.holders[page]:
                self.free.append(page)

    def keep(self, page: int, key: bytes) -> None:
        """A held page is full: from now on it can be found by its key, unless another one is already."""
        if key not in self.page_of_key and page not in self.key_of_page:
            self.key_of_page[page], self.page_of_key[key] = key, page
