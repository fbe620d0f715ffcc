"""Memory in pages: what a model computes from pages that lie anywhere is what it computes from slots in a row."""

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
}


def model(name: str) -> Transformer:
    stack = c.Stack((BLOCKS[name], BLOCKS["attention"]), 1)
    config = c.Model(VOCAB, 16, CONTEXT, (stack,), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


@pytest.mark.parametrize("name", BLOCKS)
def test_texts_read_piece_by_piece_from_shared_pages_get_the_logits_of_texts_read_whole(name):
    """Four texts of different lengths; each forward pass takes some of them, in any order, padded by a row to waste."""
    network, random = model(name), np.random.default_rng(3)
    texts = [random.integers(0, VOCAB, length) for length in (5, 31, 40, 17)]
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
        tokens_BT, count_B = np.full((3, 6), 7), np.zeros(3, int)
        for b, row in enumerate(row_B):
            if row != waste:
                count_B[b] = min(random.integers(0, 7), len(texts[row]) - read[row])
                tokens_BT[b, : count_B[b]] = texts[row][read[row] : read[row] + count_B[b]]
        given = (x.astype(np.int32) for x in (row_B, read[row_B], tables[row_B], tokens_BT, count_B))
        logits_BTV, memory = step(memory, *given)
        for b, row in enumerate(row_B):
            if row != waste:
                found[row][read[row] : read[row] + count_B[b]] = logits_BTV[b, : count_B[b]]
                read[row] += count_B[b]
    for text, logits_TV in zip(texts, found, strict=True):
        tokens_BT = jnp.asarray(text[None], jnp.int32)
        np.testing.assert_allclose(logits_TV, network.logits(network.hidden(tokens_BT))[0], atol=2e-5)
