"""Invariant mode: one tile for every forward pass, and the same bits wherever a token stands in it."""

import jax
import numpy as np
import pytest

from model import config as c
from model.cache import PageLayout
from model.decode.advance import read
from model.decode.invariance import TableSize, Tile, choose_tile
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT = 29, 64
LAYOUT, TABLE = PageLayout(33, 8), TableSize(8, 8)
BLOCKS = {
    "attention": c.Block(c.Attention(4, 2, 8, rope=c.Rope()), c.MLP(32, gated=True)),
    "lstm": c.Block(c.LSTM(), None, placement="plain"),
}


def model(name: str) -> Transformer:
    config = c.Model(VOCAB, 32, CONTEXT, (c.Stack((BLOCKS[name],), 2),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


def program(network: Transformer):
    jitted = jax.jit(read, donate_argnums=1)
    return lambda memory, tokens: jitted(network, memory, tokens)


def memory(network, rows: int = 8):
    return jax.jit(lambda: network.init_pages(rows + 1, LAYOUT))()


@pytest.mark.parametrize("name", BLOCKS)
def test_the_largest_tile_is_taken_whose_every_place_gives_the_same_bits(name):
    network = model(name)
    tile, after = choose_tile(program(network), memory(network), LAYOUT, TABLE, VOCAB)
    assert tile in [(8, 8), (4, 4), (8, 1), (1, 8), (1, 1)]
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, memory(network))


def test_a_place_that_rounds_in_another_way_is_found():
    """One unit in the last place, at one row and column of one of the tiles."""
    network, honest = model("attention"), program(model("attention"))

    def other_bits(memory, tokens):
        logits_BTV, memory = honest(memory, tokens)
        if tokens.tokens_BT.shape == (4, 4):
            last = logits_BTV[3, 2, 5]
            logits_BTV = logits_BTV.at[3, 2, 5].set(np.nextafter(np.float32(last), np.float32(9)))
        return logits_BTV, memory

    tiles = (Tile(4, 4), Tile(2, 2), Tile(1, 1))
    assert choose_tile(honest, memory(network), LAYOUT, TABLE, VOCAB, tiles)[0] == (4, 4)
    assert choose_tile(other_bits, memory(network), LAYOUT, TABLE, VOCAB, tiles)[0] == (2, 2)
