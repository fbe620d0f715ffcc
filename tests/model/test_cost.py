"""FLOPs, parameters and memory by arithmetic, against counting by hand, XLA's own count and the modules themselves."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model import cost
from model.kernels import blocks
from model.sharding import MESH_AXES
from model.transformer import Transformer, abstract_model

ALONE = dict.fromkeys(MESH_AXES, 1)


def small(*blocks: c.Block, **fields) -> c.Model:
    return c.Model(32, 16, 64, (c.Stack(blocks, 2),), **fields)


def matrices(config: c.Model) -> int:
    """Of the module: every parameter that some product sums over, and the recurrent ones."""
    parameters = jax.tree.leaves(abstract_model(config), is_leaf=lambda x: isinstance(x, nnx.Param))
    return sum(jax.tree.leaves(x)[0].size for x in parameters if x.input_axes)


ATTENTION = c.Attention(4, 2, 8)
MLP = c.MLP(24)


@settings(deadline=None)
@given(st.integers(1, 40), st.none() | st.integers(1, 60), st.integers(1, 8), st.none() | st.integers(1, 8))
def test_attention_multiplies_every_query_with_the_keys_that_it_sees(length, window, width, value_width):
    attention = c.Attention(6, 3, width, window=window, value_width=value_width)
    seen = sum(1 for query in range(length) for key in range(query + 1) if window is None or query - key < window)
    flops = cost.attention_score_flops(attention, length)
    assert flops * length == pytest.approx(seen * 6 * (2 * width + 2 * (value_width or width)))


MODELS = {
    "plain": small(c.Block(ATTENTION, MLP)),
    "a value width": small(c.Block(dataclasses.replace(ATTENTION, value_width=12), MLP), tied=False),
    "alternating windows": small(c.Block(dataclasses.replace(ATTENTION, window=3), MLP), c.Block(ATTENTION, MLP)),
    "mixture of experts": small(c.Block(ATTENTION, c.MoE(4, 2, 12, shared=8))),
    "attention alone": small(c.Block(ATTENTION, None)),
    "LSTM": small(c.Block(c.LSTM(), None, placement="plain"), final_norm=None, tied=False),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_matrices_are_those_of_the_module(config):
    assert cost.matrix_parameters(config) == matrices(config)


WIDE = c.Attention(4, 2, 64)


@pytest.mark.parametrize(
    "attention",
    [WIDE, dataclasses.replace(WIDE, value_width=256), dataclasses.replace(WIDE, window=128, value_width=16)],
    ids=["plain", "a value width", "a window"],
)
def test_forward_flops_are_those_that_xla_counts(attention, monkeypatch):
    """XLA counts softmax, norms and activations too, and all the pairs of a block of which some are seen."""
    monkeypatch.setattr(blocks, "BLOCK", 32)
    config, length = c.Model(512, 256, 256, (c.Stack((c.Block(attention, c.MLP(512)),), 2),)), 256
    model = abstract_model(config, c.Execution(layers="unroll", kernel="blocks"))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    lowered = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens))).lower(model, tokens)
    window = attention.window or length
    starts, slots = np.arange(0, length, 32), np.arange(length)
    multiplied = 32 * (starts + 32 - np.maximum(0, starts - window + 1)).sum()
    seen = (np.minimum(slots + 1, window)).sum()
    scores = cost.score_flops(config, length)
    expected = length * (cost.forward_flops(config, length) - scores + scores * multiplied / seen)
    assert 1 < lowered.cost_analysis()["flops"] / expected < 1.02


@pytest.mark.parametrize("remat", ["none", "minimal", "save_qkv", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_memory_is_estimated_for_every_kind_of_block(name, remat):
    execution = c.Execution(remat=remat)
    estimate = cost.estimate_memory(MODELS[name], execution, ALONE, 4, 64)
    twice = cost.estimate_memory(MODELS[name], execution, ALONE, 8, 64)
    assert estimate.parameters == 4 * matrices(MODELS[name])
    assert twice.saved == 2 * estimate.saved > 0 and twice.working > estimate.working


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_a_decoder_reads_every_matrix_once_but_the_table_of_an_embedding(config):
    table = 0 if config.tied else config.vocab_size * config.width
    assert cost.decoding_weights(config, batch=1000) == pytest.approx(matrices(config) - table)


def test_a_decoder_reads_the_experts_that_its_rows_choose():
    """Against the mean over every way in which two rows can choose two of four experts."""
    config, width = MODELS["mixture of experts"], 12
    pairs = list(itertools.combinations(range(4), 2))
    chosen = [len({*a, *b}) for a, b in itertools.product(pairs, pairs)]
    all_read, two_rows = (cost.decoding_weights(config, batch) for batch in (1000, 2))
    unread = 4 - sum(chosen) / len(chosen)
    assert all_read - two_rows == pytest.approx(2 * unread * 3 * 16 * width)  # in two layers, three matrices each


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_what_a_decoder_has_cached_is_counted(config):
    """Against the cache itself, of as many slots as tokens; a ring of a window has some slots more than it sees."""
    length = 64
    cache = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)).init_cache(1, length))
    held = sum(x.size for layer in cache.layers for x in jax.tree.leaves(layer.mixer) if x.ndim > 1)
    ring = sum(
        16 * 2 * (8 + 8) for block in c.blocks(config) if isinstance(block.mixer, c.Attention) and block.mixer.window
    )
    assert cost.cached_numbers(config, length) == held - ring
