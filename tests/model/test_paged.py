"""The TPU's kernel for pages: what it is given, by its own reference, and that the whole step compiles for TPUs."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model import kernels, key_values
from model.cache import FilledSlots, PageLayout
from model.kernels import paged
from model.sharding import make_mesh
from model.transformer import Transformer, abstract_model

pytestmark = pytest.mark.timeout(120)
ROWS, HEADS, KV_HEADS, WIDTH, SIZE = 3, 4, 2, 128, 8


@pytest.mark.parametrize("length, window, cap", [(1, None, None), (5, None, None), (5, 7, 2.0)])
def test_the_kernels_own_reference_attends_to_the_pages_as_our_gather_does(monkeypatch, length, window, cap):
    """The kernel runs on TPUs alone; here its reference stands in its place, with all that it is given."""
    library = pytest.importorskip("jax.experimental.pallas.ops.tpu.ragged_paged_attention")
    given = ("q", "kv_pages", "kv_lens", "page_indices", "cu_q_lens", "num_seqs")
    tuning = ("num_kv_pages_per_block", "num_queries_per_block")

    class Reference:
        @staticmethod
        def ragged_paged_attention(*arrays, **options):
            assert len(arrays) == len(given)
            return library.ref_ragged_paged_attention(
                *arrays, **{name: value for name, value in options.items() if name not in tuning}
            )

    monkeypatch.setattr(paged, "paged_library", lambda: Reference)
    random = np.random.default_rng(0)
    shapes = [(ROWS, heads, length, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    query, key, value = (jnp.asarray(random.normal(size=shape) * 0.3, jnp.float32) for shape in shapes)
    tables = jnp.asarray(random.permutation(np.arange(1, 20))[: ROWS * 5].reshape(ROWS, 5), jnp.int32)
    slots = FilledSlots(jnp.array([0, 17, 30]), jnp.full(ROWS, length), tables)
    pages = jnp.asarray(random.normal(size=(20, SIZE, 2 * KV_HEADS, WIDTH)), jnp.float32)
    keys, values = (jnp.swapaxes(pages[:, :, first::2], 1, 2) for first in (0, 1))
    query_slots = slots.start_B[:, None] + jnp.arange(length)
    mask = kernels.AttentionMask(query_slots, window=window)
    _, ours = key_values.PagedKeyValues(keys, values).append(key, value, slots, mask)
    _, theirs = key_values.InterleavedPages(pages).append(key, value, slots, mask)
    expected = ours.attend(kernels.decoding_kernel("reference"), query, (0.0, None), cap)
    np.testing.assert_allclose(theirs.attend(None, query, (0.0, None), cap), expected, atol=1e-5)


@pytest.mark.slow(30)
@pytest.mark.parametrize("sizes", [{}, {"tensor": 2}], ids=["one device", "tensor=2"])
def test_a_decoding_step_over_pages_compiles_for_a_tpu_that_is_not_there(sizes):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, the compiler for TPUs: pip install 'skald[plan]'")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    block = c.Block(c.Attention(8, 4, 128, rope=c.Rope()), c.MLP(512, gated=True))
    config = c.Model(512, 256, 256, (c.Stack((block,), 2),))
    mesh = make_mesh(sizes, devices=devices[: sizes.get("tensor", 1)])
    with jax.set_mesh(mesh):
        network = abstract_model(config, c.Execution(dtype="bfloat16"))
        memory = jax.eval_shape(lambda: Transformer.init_pages(network, 5, PageLayout(40, 16)))

        def step(network, memory, row_B, length_B, pages_Bn, tokens_BT):
            cache = network.open_rows(memory, row_B, length_B, pages_Bn)
            logits_BTV, cache = network(tokens_BT, cache)
            return logits_BTV, network.close_rows(memory, cache, row_B)

        shapes = ((4,), (4,), (4, 16), (4, 1))
        given = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]
        program = jax.jit(step).lower(network, memory, *given).compile().as_text()
    assert "ragged_paged_attention" in program or "tpu_custom_call" in program
