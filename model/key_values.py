"""What attention remembers while decoding: keys and values, in slots of each row, in a ring, or in pages of all rows.

attention.py creates one of them and attends through it. Each takes new keys and values, and gives the kernel all that
the queries may see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model import kernels
from model.cache import FilledSlots, PageLayout
from model.kernels import AttentionMask
from model.sharding import shard

RING_SLACK = (
    16  # slots of a ring beyond the window: tokens that one pass adds without a copy, or that may be taken back
)
FEW_TOKENS = 16  # new tokens a row, up to which pages are read one at a time: gathered, they are read thrice
NEVER = jnp.iinfo(jnp.int32).max  # the slot of a key that no query sees


class Int8(NamedTuple):
    """Numbers in 8 bits, […, H], and for each vector of them the scale that its largest one gives, float32 […, 1]."""

    value: jax.Array
    scale: jax.Array


class Attended(NamedTuple):
    """What a kernel gets: keys and values [B, K, S, H], and the mask for their slots."""

    key_BKSH: jax.Array
    value_BKSH: jax.Array
    mask: AttentionMask

    def attend(self, kernel: Callable, query_BNTH, weight_dropout, score_cap) -> jax.Array:
        """The context [B, N, T, H] of queries, by a kernel of model/kernels."""
        return kernel(query_BNTH, self.key_BKSH, self.value_BKSH, self.mask, weight_dropout, score_cap)


class AttendedPages(NamedTuple):
    """The pages [P, C, 2 K, H] in which queries find their keys and values, for a kernel that reads pages itself."""

    pages_PCKH: jax.Array
    slots: FilledSlots
    window: int | None

    def attend(self, kernel: Callable, query_BNTH, weight_dropout, score_cap) -> jax.Array:
        """The context [B, N, T, H] of queries; the kernel is model/kernels/paged.py's."""
        length_B = self.slots.start_B + query_BNTH.shape[2]  # queries that are not real see what is not real
        return kernels.paged_attention(
            query_BNTH, self.pages_PCKH, length_B, self.slots.pages_Bn, self.window, score_cap
        )


class KeyValues(NamedTuple):
    """Keys and values of all slots [B, K, S, H], as arrays or Int8. No query may see the slots past a row's length.

    Heads come before slots, as kernels read them: otherwise every token would copy the whole cache.
    """

    key: Any
    value: Any

    def append(self, key_BKTH, value_BKTH, slots: FilledSlots, mask: AttentionMask) -> tuple[KeyValues, Attended]:
        """The memory with new keys and values in it, and what these tokens' queries see."""

        def write(old_BKSH, new_BKTH):
            return jax.vmap(lambda old, new, start: jax.lax.dynamic_update_slice(old, new, (0, start, 0)))(
                old_BKSH, new_BKTH, slots.start_B
            )

        new = KeyValues(*(jax.tree.map(write, old, encode(x, old)) for old, x in self.pairs(key_BKTH, value_BKTH)))
        return new, Attended(decode(new.key, key_BKTH.dtype), decode(new.value, value_BKTH.dtype), mask)

    def pairs(self, key_BKTH, value_BKTH) -> tuple:
        return (self.key, key_BKTH), (self.value, value_BKTH)


class RingKeyValues(KeyValues):
    """Keys and values of the newest R slots [B, K, R, H], for queries that see a window of the last ones alone.

    Slot s lies at s mod R. R is the window and RING_SLACK more.
    """

    def append(self, key_BKTH, value_BKTH, slots: FilledSlots, mask: AttentionMask) -> tuple[RingKeyValues, Attended]:
        """The memory with new keys and values in it, and what these tokens' queries see: the ring after them, or where
        they would overwrite what their first queries need, the ring before them and they themselves."""
        size, length = jax.tree.leaves(self.key)[0].shape[2], key_BKTH.shape[2]
        index_BT = self.indices(slots, size, length)

        def write(old_BKRH, new_BKTH):
            return jax.vmap(lambda old, new, index_T: old.at[:, index_T].set(new, mode="drop"))(
                old_BKRH, new_BKTH, index_BT
            )

        encoded = [encode(x, old) for old, x in self.pairs(key_BKTH, value_BKTH)]
        new = RingKeyValues(
            *(jax.tree.map(write, old, x) for old, x in zip((self.key, self.value), encoded, strict=True))
        )
        if length <= size - mask.window + 1:
            seen, slots_BS = (new.key, new.value), ring_slots(slots.start_B + slots.count_B, size)
        else:
            join = lambda old, new: jnp.concatenate([old, new], axis=2)  # noqa: E731
            seen = [jax.tree.map(join, old, x) for old, x in zip((self.key, self.value), encoded, strict=True)]
            slot_BT = slots.start_B[:, None] + jnp.arange(length)
            slot_BT = jnp.where(jnp.arange(length) < slots.count_B[:, None], slot_BT, NEVER)
            slots_BS = jnp.concatenate([ring_slots(slots.start_B, size), slot_BT], axis=1)
        mask = dataclasses.replace(mask, key_slots_BS=slots_BS)
        return new, Attended(decode(seen[0], key_BKTH.dtype), decode(seen[1], value_BKTH.dtype), mask)

    @staticmethod
    def indices(slots: FilledSlots, size: int, length: int) -> jax.Array:
        """Where each of `length` new tokens lies in the ring [B, T]; outside it what is not real, or not among the last
        `size` ones."""
        step_T, count_B1 = jnp.arange(length), slots.count_B[:, None]
        is_kept_BT = (step_T < count_B1) & (step_T >= count_B1 - size)
        return jnp.where(is_kept_BT, (slots.start_B[:, None] + step_T) % size, size)


class PagedKeyValues(KeyValues):
    """Keys and values of all rows in pages of C slots [P, K, C, H]. Page 0 is no row's: what is not real goes there."""

    is_shared, slot_axis = True, 2

    def append(self, key_BKTH, value_BKTH, slots: FilledSlots, mask: AttentionMask):
        """The memory with new keys and values in it, and those of these rows' pages: all gathered, [B, K, S, H], for
        many new tokens a row, else for a kernel that reads them page by page."""
        page_BT, offset_BT = slots.places(key_BKTH.shape[2], jax.tree.leaves(self.key)[0].shape[2])

        def write(pages_PKCH, new_BKTH):
            return pages_PKCH.at[page_BT, :, offset_BT].set(jnp.swapaxes(new_BKTH, 1, 2))

        def read(pages_PKCH):
            rows_BnKCH = pages_PKCH[slots.pages_Bn]
            rows, pages, heads, size, width = rows_BnKCH.shape
            return jnp.swapaxes(rows_BnKCH, 1, 2).reshape(rows, heads, pages * size, width)

        new = PagedKeyValues(*(jax.tree.map(write, old, encode(x, old)) for old, x in self.pairs(key_BKTH, value_BKTH)))
        if key_BKTH.shape[2] <= FEW_TOKENS:
            return new, AttendedByPage(new, slots.pages_Bn, mask)
        seen = [decode(jax.tree.map(read, stored), key_BKTH.dtype) for stored in (new.key, new.value)]
        return new, Attended(*seen, mask)


class AttendedByPage(NamedTuple):
    """The pages in which queries find their keys and values, to be read a page of every row at a time."""

    memory: PagedKeyValues
    pages_Bn: jax.Array
    mask: AttentionMask

    def attend(self, kernel: Callable, query_BNTH, weight_dropout, score_cap) -> jax.Array:
        """The context [B, N, T, H] of queries; the kernel is model/kernels/page_by_page.py's."""

        def read(stored) -> Callable:
            return lambda page_B: decode(jax.tree.map(lambda pages: pages[page_B], stored), query_BNTH.dtype)

        _, kv_heads, size, _ = jax.tree.leaves(self.memory.key)[0].shape
        pages = (read(self.memory.key), read(self.memory.value), kv_heads, self.pages_Bn, size)
        return kernels.page_by_page_attention(query_BNTH, *pages, self.mask, score_cap)


class InterleavedPages(NamedTuple):
    """Keys and values in pages as the TPU's kernel reads them [P, C, 2 K, H]: keys of head k at 2 k, values behind."""

    pages: jax.Array
    is_shared, slot_axis = True, 1

    def append(self, key_BKTH, value_BKTH, slots: FilledSlots, mask: AttentionMask):
        """The memory with new keys and values in it, and the pages that these tokens' queries see."""
        page_BT, offset_BT = slots.places(key_BKTH.shape[2], self.pages.shape[1])
        rows, heads, length, width = key_BKTH.shape
        pairs_BK2TH = jnp.stack([key_BKTH, value_BKTH], axis=2)
        new_BTKH = jnp.moveaxis(pairs_BK2TH.reshape(rows, 2 * heads, length, width), 1, 2)
        new = InterleavedPages(self.pages.at[page_BT, offset_BT].set(new_BTKH.astype(self.pages.dtype)))
        return new, AttendedPages(new.pages, slots, mask.window)


def empty_key_values(
    rows: int, slots: int, kv_heads: int, widths: tuple[int, int], dtype, window: int | None, pages: PageLayout | None
) -> KeyValues | InterleavedPages:
    """The empty keys and values, of these two widths, of `rows` sequences of at most `slots` tokens; with `pages` those
    of all pages, laid out for the kernel that can read them. Where a window is smaller than `slots`, a ring. `dtype`
    int8: as Int8."""
    kind, first, axis = KeyValues, rows, "batch"
    if window is not None and window + RING_SLACK < slots:
        kind, slots = RingKeyValues, window + RING_SLACK
    elif pages is not None and kernels.reads_pages(kv_heads, widths, dtype):
        shape = (pages.count, pages.size, 2 * kv_heads, widths[0])
        return InterleavedPages(shard(jnp.zeros(shape, dtype), None, None, "kv_heads", None))
    elif pages is not None:
        kind, first, slots, axis = PagedKeyValues, pages.count, pages.size, None
    axes = (axis, "kv_heads", None, None)

    def zeros(width: int, dtype: jnp.dtype) -> jax.Array:
        return shard(jnp.zeros((first, kv_heads, slots, width), dtype), *axes)

    if dtype == jnp.int8:
        return kind(*(Int8(zeros(width, jnp.int8), zeros(1, jnp.float32)) for width in widths))
    return kind(*(zeros(width, dtype) for width in widths))


def ring_slots(length_B: jax.Array, size: int) -> jax.Array:
    """The slot at each place of a ring after `length_B` tokens: int32 [B, R]; NEVER where there was none."""
    newest_B1 = length_B[:, None] - 1
    slot_BR = newest_B1 - (newest_B1 - jnp.arange(size)) % size
    return jnp.where(slot_BR < 0, NEVER, slot_BR)


def encode(x: jax.Array, like: Any) -> Any:
    """Keys or values as a memory of this kind stores them."""
    if not isinstance(like, Int8):
        return x.astype(like.dtype)
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return Int8(jnp.round(x / jnp.where(scale == 0, 1, scale)).astype(jnp.int8), scale)


def decode(stored: Any, dtype: jnp.dtype) -> jax.Array:
    """Keys or values as a kernel takes them."""
    if not isinstance(stored, Int8):
        return stored
    return (stored.value.astype(jnp.float32) * stored.scale).astype(dtype)
