"""What a model remembers while decoding, in slots, rings, pages and 8 bits: it computes what it does without."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model.cache import PageLayout
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT, SIZE = 29, 48, 8
ATTENTION = c.Attention(4, 2, 8, rope=c.Rope())
BLOCKS = {
    "attention": c.Block(ATTENTION, c.MLP(32, gated=True)),
    "lstm": c.Block(c.LSTM(), None, placement="plain"),
    "shifted": c.Block(ATTENTION, c.MLP(32), token_shift=0.5),
    "window": c.Block(replace(ATTENTION, window=6), c.MLP(32)),
}


def model(name: str, **execution) -> Transformer:
    stack = c.Stack((BLOCKS[name], BLOCKS["attention"]), 1)
    config = c.Model(VOCAB, 16, CONTEXT, (stack,), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0), c.Execution(**execution)))()


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, VOCAB, length) for length in (5, 31, 40, 17)]


def whole_logits(network, text) -> np.ndarray:
    """[T, V], read without a memory."""
    return np.asarray(network.logits(network.hidden(jnp.asarray(text[None], jnp.int32)))[0])


@pytest.mark.parametrize("name", BLOCKS)
def test_texts_read_piece_by_piece_from_shared_pages_get_the_logits_of_texts_read_whole(name):
    """Four texts of different lengths; each forward pass takes some of them, in any order, padded by a row to waste."""
    network = model(name)
    for text, logits_TV in zip(texts(), read_in_pages(network, texts()), strict=True):
        np.testing.assert_allclose(logits_TV, whole_logits(network, text), atol=2e-5)


def read_in_pages(network, texts) -> list[np.ndarray]:
    """The logits [T, V] of each text, read in pieces of up to 6 or 30 tokens."""
    random = np.random.default_rng(4)
    waste, places = len(texts), iter(random.permutation(np.arange(1, 30)).tolist())
    tables = np.array([[next(places) for _ in range(CONTEXT // SIZE)] for _ in texts] + [[0] * (CONTEXT // SIZE)])
    read = np.zeros(len(texts) + 1, int)

    @jax.jit
    def step(memory, row_B, length_B, pages_Bn, tokens_BT, count_B):
        cache = network.open_rows(memory, row_B, length_B, pages_Bn)
        logits_BTV, cache = network(tokens_BT, cache, count_B)
        return logits_BTV, network.close_rows(memory, cache, row_B)

    memory = network.init_pages(len(texts) + 1, PageLayout(30, SIZE))
    found = [np.zeros((len(text), VOCAB)) for text in texts]
    while any(read[i] < len(text) for i, text in enumerate(texts)):
        unread = [i for i, text in enumerate(texts) if read[i] < len(text)]
        row_B = np.array(([*random.permutation(unread)[:2], waste, waste])[:3])
        length = random.choice([6, 30])
        tokens_BT, count_B = np.full((3, length), 7), np.zeros(3, int)
        for b, row in enumerate(row_B):
            if row != waste:
                count_B[b] = min(random.integers(0, length + 1), len(texts[row]) - read[row])
                tokens_BT[b, : count_B[b]] = texts[row][read[row] : read[row] + count_B[b]]
        given = (x.astype(np.int32) for x in (row_B, read[row_B], tables[row_B], tokens_BT, count_B))
        logits_BTV, memory = step(memory, *given)
        for b, row in enumerate(row_B):
            if row != waste:
                found[row][read[row] : read[row] + count_B[b]] = logits_BTV[b, : count_B[b]]
                read[row] += count_B[b]
    return found


def read_in_slots(network, texts, sizes) -> list[np.ndarray]:
    """The logits [T, V] of each text, read in pieces of these sizes from a memory with slots of each row."""
    step, cache = jax.jit(lambda tokens, cache, count: network(tokens, cache, count)), network.init_cache(4, CONTEXT)
    found = [np.zeros((len(text), VOCAB)) for text in texts]
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        count_B = np.array([min(max(len(text) - start, 0), size) for text in texts], np.int32)
        tokens_BT = np.full((4, size), 7, np.int32)
        for row, text in enumerate(texts):
            tokens_BT[row, : count_B[row]] = text[start : start + size]
        logits_BTV, cache = step(tokens_BT, cache, count_B)
        for row, logits_TV in enumerate(found):
            logits_TV[start : start + count_B[row]] = logits_BTV[row, : count_B[row]]
    return found


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [30, 1, 1, 1, 7], [3, 17, 18, 2]], ids=str)
def test_a_window_is_remembered_in_a_ring(sizes):
    """22 slots for a window of 6: pieces up to 17 tokens are written first, longer ones are read beside the ring."""
    network = model("window")
    ring, whole = (layer.mixer.key.shape[2] for layer in network.init_cache(4, CONTEXT).layers)
    assert (ring, whole) == (22, CONTEXT)
    for text, logits_TV in zip(texts(), read_in_slots(network, texts(), sizes), strict=True):
        np.testing.assert_allclose(logits_TV, whole_logits(network, text), atol=2e-5)


def test_a_ring_goes_back_as_far_as_it_has_slack():
    """Sixteen tokens that are taken back leave no trace."""
    network = model("window")
    text = texts()[2]
    step = jax.jit(lambda tokens, cache: network(tokens, cache))
    _, cache = step(text[None, :20].astype(np.int32), network.init_cache(1, CONTEXT))
    _, later = step(np.full((1, 16), 3, np.int32), cache)
    logits_BTV, _ = step(text[None, 20:30].astype(np.int32), later._replace(length_B=cache.length_B))
    np.testing.assert_allclose(logits_BTV[0], whole_logits(network, text)[20:30], atol=2e-5)


@pytest.mark.parametrize("name", ["attention", "window"])
def test_a_memory_in_eight_bits_is_near_and_a_quarter_as_large(name):
    plain, small = model(name), model(name, cache="int8")
    sizes = [sum(x.nbytes for x in jax.tree.leaves(m.init_cache(4, CONTEXT))) for m in (plain, small)]
    assert sizes[1] < sizes[0] * (8 + 4) / 32 + 100  # 8 numbers of a head and one scale, of 4 bytes each before
    in_slots, in_pages = read_in_slots(small, texts(), [3, 30, 7]), read_in_pages(small, texts())
    for text, a, b in zip(texts(), in_slots, in_pages, strict=True):
        exact = whole_logits(plain, text)
        assert 0 < np.abs(a - exact).max() < 0.05 * np.abs(exact).max()
        np.testing.assert_allclose(a, b, atol=2e-2)
