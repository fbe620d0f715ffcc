"""Every attention kernel against the formula in NumPy, float64, forward and backward, on one device and on meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import topologies

from model import config as c
from model import kernels
from model.kernels import AttentionMask, KernelError, blocks, cudnn, proof, reference, ring, splash
from model.sharding import make_mesh, shard, time_order
from model.transformer import Transformer

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py"),
]
MESHES = {
    "context 8": {"context": 8},
    "context 4, replica 2": {"context": 4, "replica": 2},
    "context 2, tensor 2, data 2": {"context": 2, "tensor": 2, "data": 2},
}
PLAIN = AttentionMask(None)  # for refusals, which look at its window alone
SHAPES = {  # of attention: what there is beside causality
    "a window smaller than a block": {"window": 3, "documents": 0},
    "a window larger than a block": {"window": 50, "documents": 0},
    "a window larger than the row": {"window": 1000, "documents": 0},
    "a window and documents": {"window": 20, "documents": 2},
    "a cap": {"score_cap": 1.5, "documents": 0},
    "a value width of its own": {"value_size": 12, "documents": 0},
    "window, cap, value width and documents": {"window": 20, "score_cap": 1.5, "value_size": 4, "documents": 2},
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Queries, keys, values, a gradient of the context and the documents of random rows, float32; the window and the
    cap of scores."""

    query_BNTH: np.ndarray
    key_BKSH: np.ndarray
    value_BKSH: np.ndarray
    context_gradient_BNTH: np.ndarray
    segments_BT: np.ndarray | None
    window: int | None = None
    score_cap: float | None = None


def rows(
    length: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    batch: int = 2,
    size: int = 8,
    documents: int = 5,
    value_size: int | None = None,
    window: int | None = None,
    score_cap: float | None = None,
) -> Rows:
    """Documents of random lengths, a row's first and last longer than a quarter of it; 0 documents: no segments."""
    random = np.random.default_rng(0)
    value_size = value_size or size
    widths = {"query": (heads, size), "key": (kv_heads, size), "value": (kv_heads, value_size)}
    widths |= {"gradient": (heads, value_size)}
    shapes = [(batch, n, length, width) for n, width in widths.values()]
    segments = (
        np.sort(random.integers(1, documents + 1, (batch, length)), axis=1).astype(np.int32) if documents else None
    )
    query, *others = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Rows(np.float32(0.3) * query, *others, segments, window, score_cap)  # queries come scaled


def arrays(given: Rows) -> list[np.ndarray]:
    """All but the documents, the window and the cap."""
    return [given.query_BNTH, given.key_BKSH, given.value_BKSH, given.context_gradient_BNTH]


def numpy_attention(given: Rows) -> list[np.ndarray]:
    """The context and the gradients of query, key and value, one head of one row at a time."""
    (rows, heads, length, _), kv_heads = given.query_BNTH.shape, given.key_BKSH.shape[1]
    shapes_of = (given.context_gradient_BNTH, given.query_BNTH, given.key_BKSH, given.value_BKSH)
    found = [np.zeros(x.shape) for x in shapes_of]
    for row, head in np.ndindex(rows, heads):
        shared = head * kv_heads // heads
        query, gradient = (x[row, head].astype(np.float64) for x in (given.query_BNTH, given.context_gradient_BNTH))
        key, value = (x[row, shared].astype(np.float64) for x in (given.key_BKSH, given.value_BKSH))
        seen = np.tri(length, dtype=bool)
        if given.segments_BT is not None:
            seen &= given.segments_BT[row][:, None] == given.segments_BT[row]
        if given.window is not None:
            seen &= np.arange(length)[:, None] - np.arange(length) < given.window
        scores, cap = query @ key.T, given.score_cap
        capped = scores if cap is None else cap * np.tanh(scores / cap)
        slope = 1.0 if cap is None else 1 / np.cosh(scores / cap) ** 2
        scores = np.where(seen, capped, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        context = weights @ value
        score_gradient = weights * (gradient @ value.T - (gradient * context).sum(1, keepdims=True)) * slope
        found[0][row, head] = context
        found[1][row, head] = score_gradient @ key
        found[2][row, shared] += score_gradient.T @ query
        found[3][row, shared] += weights.T @ gradient
    return found


def program(attention, dtype=jnp.float32, window: int | None = None, score_cap: float | None = None):
    """A function of (query, key, value, gradient, segments) to the context and the three gradients."""
    attention = attention if score_cap is None else functools.partial(attention, score_cap=score_cap)

    def run(query, key, value, gradient, segments):
        query, key, value, gradient = (x.astype(dtype) for x in (query, key, value, gradient))
        query, gradient = (shard(x, "batch", "heads", "time", None) for x in (query, gradient))
        key, value = (shard(x, "batch", "kv_heads", "time", None) for x in (key, value))
        segments = None if segments is None else shard(segments, "batch", "time")
        slots_T = jnp.asarray(time_order(query.shape[2]), jnp.int32)
        slots = shard(jnp.broadcast_to(slots_T, (query.shape[0], query.shape[2])), "batch", "time")
        mask = AttentionMask(slots, segments, window)
        context, back = jax.vjp(lambda *given: attention(*given, mask), query, key, value)
        return context, *back(gradient)

    return run


def computed(attention, given: Rows, sizes: dict[str, int] | None = None, dtype=jnp.float32) -> list[np.ndarray]:
    """What `program` finds on a mesh of these sizes, in reading order."""
    with jax.set_mesh(make_mesh(sizes)) if sizes else jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
        order = time_order(given.query_BNTH.shape[2])
        segments = None if given.segments_BT is None else given.segments_BT[:, order]
        run = jax.jit(program(attention, dtype, given.window, given.score_cap))
        found = run(*(x[:, :, order] for x in arrays(given)), segments)
        return [np.asarray(x, np.float64)[:, :, np.argsort(order)] for x in found]


def assert_near(found: list, expected: list, limit: float):
    """Norm of each difference relative to the norm of what is expected."""
    for name, a, b in zip(("context", "query", "key", "value"), found, expected, strict=True):
        assert np.linalg.norm(a - b) < limit * np.linalg.norm(b), name


EVERYWHERE = {
    "reference": kernels.attention_kernel("reference"),
    "cached": kernels.attention_kernel("cached"),
    "ring": kernels.attention_kernel("ring"),
    "blocks": kernels.attention_kernel("blocks"),
    "splash": functools.partial(splash.attention, interpret=True),  # as on a TPU, in Python
    "cudnn": functools.partial(cudnn.attention, implementation="xla"),  # the same arguments, another backend of jax.nn
}


@pytest.mark.parametrize("documents", [0, 5])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_kernel_computes_the_formula_and_its_gradients(name, documents, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 48)  # two of 48 and one of 32
    given = rows(128, documents=documents)
    assert_near(computed(EVERYWHERE[name], given), numpy_attention(given), 2e-6)


def refused(name: str, shape: dict) -> bool:
    return name == "cudnn" and bool({"score_cap", "value_size"} & set(shape))


SHAPED = [
    pytest.param(name, shape, id=f"{name}, {label}")
    for name in ("reference", "ring", "blocks", "splash", "cudnn")
    for label, shape in SHAPES.items()
    if not refused(name, shape)
]


@pytest.mark.parametrize("name, shape", SHAPED)
def test_a_kernel_computes_windows_caps_and_value_widths(name, shape, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 48)
    monkeypatch.setattr(ring, "MAX_BLOCK", 32)
    monkeypatch.setattr(ring, "MIN_BLOCK", 32)
    given = rows(128, batch=1, **shape)
    assert_near(computed(EVERYWHERE[name], given), numpy_attention(given), 2e-6)


@pytest.mark.parametrize("name", ["reference", "blocks", "splash", "cudnn"])
def test_a_kernel_computes_the_same_with_rows_and_heads_over_a_mesh(name, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 48)
    given = rows(128, batch=4)
    sizes = {"data": 2, "replica": 2, "tensor": 2}
    assert_near(computed(EVERYWHERE[name], given, sizes), numpy_attention(given), 2e-6)


# The ring.


@pytest.mark.parametrize("documents", [0, 5])
@pytest.mark.parametrize("block", [1024, 2], ids=["whole pieces", "blocks of 2"])
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_the_ring_computes_the_formula_on_every_mesh(sizes, block, documents, monkeypatch):
    monkeypatch.setattr(ring, "MAX_BLOCK", block)
    monkeypatch.setattr(ring, "MIN_BLOCK", min(block, ring.MIN_BLOCK))
    given = rows(documents=documents)
    assert_near(computed(kernels.attention_kernel("ring"), given, sizes), numpy_attention(given), 1e-6)


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ({"context": 8}, {"window": 3, "documents": 0}),  # shorter than a piece of 4
        ({"context": 4, "replica": 2}, {"window": 20, "score_cap": 1.5, "value_size": 12, "documents": 2}),
        ({"context": 2, "tensor": 2, "data": 2}, {"window": 1000, "value_size": 4}),
    ],
    ids=str,
)
def test_the_ring_computes_windows_caps_and_value_widths_on_every_mesh(sizes, shape, monkeypatch):
    monkeypatch.setattr(ring, "MAX_BLOCK", 2)
    monkeypatch.setattr(ring, "MIN_BLOCK", 2)
    given = rows(**shape)
    assert_near(computed(kernels.attention_kernel("ring"), given, sizes), numpy_attention(given), 1e-6)


def test_the_ring_sums_in_float32_whatever_it_is_given():
    """bfloat16: no further from the formula than rounding its inputs, weights and results makes it."""
    given = rows(256, documents=3)
    assert_near(computed(ring.attention, given, {"context": 4, "data": 2}, jnp.bfloat16), numpy_attention(given), 6e-3)


def test_a_document_of_one_token_on_another_device_than_its_row_is_no_nan():
    """Every token its own document: of all blocks but its own a query sees no key, and its context is its value."""
    given = dataclasses.replace(rows(), segments_BT=np.arange(64, dtype=np.int32)[None].repeat(2, axis=0))
    context, query_gradient, key_gradient, _ = computed(ring.attention, given, {"context": 8})
    np.testing.assert_allclose(context, given.value_BKSH.repeat(2, axis=1), rtol=1e-6)
    assert max(np.abs(query_gradient).max(), np.abs(key_gradient).max()) < 1e-5


def test_each_device_computes_as_many_blocks_as_every_other_and_none_that_is_hidden():
    count, blocks = 4, 4  # devices, and blocks on each: two a piece

    def work(device):
        def visit(pairs, held, computed, _):
            return computed.at[held[0], pairs[:, 0], pairs[:, 1]].add(1), ()

        nothing = jnp.zeros((count, blocks, blocks), int)
        return ring.ring_loop(visit, ("context",), blocks, device, nothing, ())[0][None]

    with jax.set_mesh(make_mesh({"context": count, "data": 2})):
        slots = time_order(count * blocks).reshape(count, blocks)
        devices = shard(jnp.arange(count), "time")
        spec = jax.P("context")
        found = jax.jit(jax.shard_map(work, in_specs=spec, out_specs=spec, check_vma=False))(devices)
    needed = slots[None, :, None, :] <= slots[:, None, :, None]  # key's device and block, query's device and block
    np.testing.assert_array_equal(found, needed)
    assert len(set(found.sum((1, 2, 3)).tolist())) == 1


@pytest.mark.parametrize("window", [3, 1000])
def test_a_device_computes_only_the_blocks_that_the_window_shows(window, monkeypatch):
    """Blocks of 2 tokens, two a piece, on eight devices; forward and backward."""
    computed_blocks, real = [], ring.compute_if

    def count(is_shown, compute, otherwise):
        jax.debug.callback(lambda shown: computed_blocks.append(bool(shown)), is_shown)
        return real(is_shown, compute, otherwise)

    monkeypatch.setattr(ring, "MAX_BLOCK", 2)
    monkeypatch.setattr(ring, "MIN_BLOCK", 2)
    monkeypatch.setattr(ring, "compute_if", count)
    computed(ring.attention, rows(64, documents=0, window=window), {"context": 8})
    jax.effects_barrier()
    seen = np.tri(64, dtype=bool) & ~np.tri(64, k=-window, dtype=bool)
    assert sum(computed_blocks) == 2 * seen.reshape(32, 2, 32, 2).any((1, 3)).sum()


MINIMAL = jax.checkpoint_policies.save_only_these_names("query", "key", "value", "context")


def remade(attention, policy):
    """The kernel in a layer whose results are made again for the backward pass, but for those that the policy keeps."""

    def once_more(query, key, value, mask):
        return jax.checkpoint(lambda *given: attention(*given, mask), policy=policy)(query, key, value)

    return once_more


def test_backward_of_the_ring_goes_round_once_where_its_context_is_kept_by_name():
    def moves(attention) -> int:
        with jax.set_mesh(make_mesh({"context": 8})):
            return str(jax.make_jaxpr(program(attention))(*arrays(rows(documents=0)), None)).count("ppermute[")

    assert moves(remade(ring.attention, MINIMAL)) == moves(ring.attention) < moves(remade(ring.attention, None))


@pytest.mark.parametrize("name, numbers", [("reference", 1), ("blocks", 1), ("ring", 2)])
def test_a_layers_context_is_kept_once(name, numbers, capsys):
    """By `minimal`: of the ring with the logsumexp."""
    config = c.Model(32, 16, 32, (c.Stack((c.Block(c.Attention(4, 2, 4), c.MLP(24)),), 1),))
    model = Transformer(config, jax.random.key(0), c.Execution(kernel=name, remat="minimal", layers="unroll"))
    jax.ad_checkpoint.print_saved_residuals(lambda model: model.hidden(np.zeros((2, 32), np.int32)).sum(), model)
    assert capsys.readouterr().out.count("named 'context'") == numbers


def test_the_scores_of_a_long_row_are_never_held_whole():
    """Length 8192 over eight devices: each holds less than a fiftieth of what the reference does."""
    given = [jax.ShapeDtypeStruct((1, 2, 8192, 8), jnp.float32)] * 4
    alone = jax.jit(program(reference.attention)).lower(*given, None).compile().memory_analysis()
    with jax.set_mesh(make_mesh({"context": 8})):
        ringed = jax.jit(program(ring.attention)).lower(*given, None).compile().memory_analysis()
    assert ringed.temp_size_in_bytes * 50 < alone.temp_size_in_bytes


def test_a_length_that_has_no_block_is_refused_with_those_that_have():
    with jax.set_mesh(make_mesh({"context": 8})), pytest.raises(KernelError) as error:
        jax.eval_shape(program(kernels.attention_kernel("ring")), *arrays(rows(16 * 1031)), None)
    assert_one_line(error, "execution.kernel=ring", "16496", "context=8", "2048")


def test_the_ring_refuses_to_drop_weights_and_auto_gathers_the_row_instead():
    query_key_value, weight_dropout = arrays(rows())[:3], (0.5, jax.random.key(0))
    with jax.set_mesh(make_mesh({"context": 8})):
        with pytest.raises(KernelError) as error:
            kernels.choose_kernel("ring", *query_key_value, PLAIN, weight_dropout)
        assert kernels.choose_kernel("auto", *query_key_value, PLAIN, weight_dropout) == "reference"
    assert_one_line(error, "execution.kernel=ring", "dropout", "reference")


# Splash and cuDNN.


@pytest.mark.parametrize("size, dtype", [(64, jnp.float32), (128, jnp.bfloat16)])
def test_splash_takes_heads_of_any_width_and_both_formats(size, dtype):
    given = rows(384, heads=2, kv_heads=1, batch=1, size=size)
    found = computed(EVERYWHERE["splash"], given, dtype=dtype)
    assert_near(found, numpy_attention(given), 5e-6 if dtype == jnp.float32 else 3e-2)


@pytest.mark.parametrize("window", [100, 150, 384])
def test_splash_leaves_out_the_blocks_that_the_window_hides(window, monkeypatch):
    """Three blocks of 128: those left out are neither read nor counted."""
    for name in ("BLOCK_Q", "BLOCK_KV", "BLOCK_KV_DKV"):
        monkeypatch.setattr(splash, name, 128)
    given = rows(384, heads=1, kv_heads=1, batch=1, size=128, documents=0, window=window)
    assert_near(computed(EVERYWHERE["splash"], given), numpy_attention(given), 5e-6)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([128, 256, 512]), st.sampled_from([128, 256, 1024]), st.integers(1, 8), st.integers(1, 3000))
def test_splash_multiplies_the_blocks_in_which_any_pair_is_seen(queries, keys, count, window):
    length = count * max(queries, keys)
    slots = np.arange(length)

    def sees(query, key):
        return (key <= query) & (key > query - window)

    blocks = sees(slots[:, None], slots).reshape(length // queries, queries, length // keys, keys).any((1, 3))
    assert splash.multiplied_pairs(length, queries, keys, sees) == blocks.sum() * queries * keys


def test_backward_of_splash_finds_what_its_forward_kept_under_the_name_context():
    """The grid of a kernel is a loop here: of forward and backward with `minimal`, where nothing is kept of forward
    twice."""
    given = rows(128, documents=0)

    def loops(attention) -> int:
        with jax.set_mesh(make_mesh({"replica": 2, "tensor": 2}, jax.devices()[:4])):
            return jax.jit(program(attention)).lower(*arrays(given), None).compile().as_text().count(" while(")

    splash = EVERYWHERE["splash"]
    assert loops(remade(splash, MINIMAL)) == loops(splash) < loops(remade(splash, None))


@pytest.mark.parametrize("window", [None, 5])
def test_cudnn_takes_a_mask_only_where_documents_share_a_row(window, monkeypatch):
    asked, real = [], jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, **named: asked.append(named) or real(*x, **named))
    whole, shared = rows(documents=1, window=window), rows(documents=3, window=window)
    assert_near(computed(EVERYWHERE["cudnn"], whole), numpy_attention(whole), 2e-6)
    assert all(named["is_causal"] for named in asked)
    assert {named.get("local_window_size") for named in asked if "mask" not in named} == {window and (window - 1, 0)}
    assert {named.get("local_window_size") for named in asked if "mask" in named} == {None}

    monkeypatch.setattr(cudnn, "masked_attention", lambda window, name, query, *_: 0 * query)
    assert_near(computed(EVERYWHERE["cudnn"], whole), numpy_attention(whole), 2e-6)
    assert not computed(EVERYWHERE["cudnn"], shared)[0].any()


REFUSED = {
    "a length that 128 does not divide": (splash, rows(200), jnp.bfloat16, ("200", "128 and 256")),
    "a length below 128": (splash, rows(100), jnp.bfloat16, ("100", " 128 ")),
    "float32": (cudnn, rows(), jnp.float32, ("float32", "execution.dtype=bfloat16")),
    "wide heads": (cudnn, rows(size=136), jnp.bfloat16, ("136", "128", "reference")),
    "heads of an odd width": (cudnn, rows(size=12), jnp.bfloat16, ("12", "reference")),
    "an odd length": (cudnn, rows(65), jnp.bfloat16, ("65", "reference")),
    "a cap": (cudnn, rows(score_cap=50.0), jnp.bfloat16, ("score_cap=50;", "reference")),
    "a value width": (cudnn, rows(value_size=16), jnp.bfloat16, ("head_width=8", "value_width=16", "reference")),
}


@pytest.mark.parametrize("kernel, given, dtype, parts", REFUSED.values(), ids=REFUSED)
def test_what_a_backends_kernel_cannot_take_is_said_in_one_line(kernel, given, dtype, parts):
    query_key_value = (jax.ShapeDtypeStruct(x.shape, dtype) for x in arrays(given)[:3])
    reason = kernel.refusal(*query_key_value, PLAIN, (0.0, None), given.score_cap)
    assert "\n" not in reason and all(part in reason for part in parts), reason


@pytest.mark.parametrize("kernel", [blocks, cudnn, splash], ids=lambda kernel: kernel.__name__)
def test_kernels_of_whole_rows_refuse_split_time_and_dropout(kernel):
    query = key = jax.ShapeDtypeStruct((8, 4, 512, 64), jnp.bfloat16)
    assert kernel.refusal(query, key, key, PLAIN, (0.5, None), None) is None  # evaluation drops nothing
    assert "dropout" in kernel.refusal(query, key, key, PLAIN, (0.5, jax.random.key(0)), None)
    with jax.set_mesh(make_mesh({"context": 8})):
        assert "ring" in kernel.refusal(query, key, key, PLAIN, (0.0, None), None)


@pytest.mark.parametrize("name, backend", [("cudnn", "gpu"), ("splash", "tpu")])
def test_a_kernel_of_another_backend_is_refused_by_name(name, backend):
    given = rows(128)
    with pytest.raises(KernelError) as error:
        jax.eval_shape(program(kernels.attention_kernel(name)), *arrays(given), None)
    assert_one_line(error, f"execution.kernel={name}", backend, "cpu", "auto")


TPUS = {
    "v5e, grouped heads": ("v5e:4x4", {"data": 4, "tensor": 4}, rows(2048, 32, 8, 4, 128), jnp.bfloat16),
    "v5p, long rows": ("v5p:2x2x2", {"data": 8}, rows(8192, 2, 2, 8, 128), jnp.bfloat16),
    "v5e, GPT-2 small": ("v5e:4x4", {"data": 16}, rows(1024, 12, 12, 16, 64), jnp.bfloat16),
    "v5e, wide heads": ("v5e:4x4", {"data": 16}, rows(4096, 2, 2, 16, 256), jnp.float32),
    "v5p, a window, a cap and a value width": (
        "v5p:2x2x2", {"data": 8}, rows(2048, 4, 2, 8, 192, 3, 128, window=100, score_cap=50.0), jnp.bfloat16,
    ),
}  # fmt: skip


@pytest.fixture
def tpu_devices(monkeypatch, no_cache):
    """A function from a topology's name to its devices, which need not exist."""
    pytest.importorskip("libtpu", reason="needs libtpu (the extra `tpu`), which compiles for a TPU without one")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return lambda name: list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


def kernels_compiled(attention, given: Rows, dtype) -> int:
    """Of forward and backward for the current mesh, with documents."""
    whole = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for x in (*arrays(given), given.segments_BT)]
    run = jax.jit(program(attention, dtype, given.window, given.score_cap))
    return run.lower(*shapes).compile().as_text().count('tpu_custom_call"')


@pytest.mark.parametrize("topology, sizes, given, dtype", TPUS.values(), ids=TPUS)
def test_auto_compiles_splash_for_tpus_that_are_not_here(topology, sizes, given, dtype, tpu_devices):
    with jax.set_mesh(make_mesh(sizes, tpu_devices(topology))):
        assert kernels_compiled(kernels.attention_kernel("auto"), given, dtype) == 2


def test_splash_on_tpu_runs_forward_once_where_its_context_is_kept_by_name(tpu_devices):
    with jax.set_mesh(make_mesh({"tensor": 4}, tpu_devices("v5e:2x2"))):
        counts = [
            kernels_compiled(remade(splash.attention, p), rows(256, 4, 4, 1, 128), jnp.bfloat16)
            for p in (MINIMAL, None)
        ]
    assert counts == [2, 3]


# The choice.


def test_auto_is_the_ring_where_the_mesh_splits_time():
    given = rows()
    with jax.set_mesh(make_mesh({"context": 2, "data": 4})):
        assert kernels.choose_kernel("auto", given.query_BNTH, given.key_BKSH, given.value_BKSH, PLAIN) == "ring"


@pytest.mark.parametrize("length, expected", [(64, "reference"), (256, "reference"), (257, "blocks"), (2048, "blocks")])
def test_auto_on_cpu_is_blocks_for_rows_longer_than_one_of_them(length, expected):
    query = key = jax.ShapeDtypeStruct((8, 4, length, 64), jnp.float32)
    assert kernels.choose_kernel("auto", query, key, key, PLAIN) == expected
    assert kernels.choose_kernel("auto", query, key, key, PLAIN, (0.5, jax.random.key(0))) == "reference"
    with jax.set_mesh(make_mesh({"data": 8})):
        assert kernels.choose_kernel("auto", query, key, key, PLAIN) == expected


@pytest.mark.parametrize("backend, name, dtype", [("gpu", "cudnn", jnp.bfloat16), ("tpu", "splash", jnp.float32)])
def test_auto_on_other_backends_is_their_kernel_where_it_takes_the_rows(backend, name, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "platform", lambda: backend)
    for length, expected in ((256, name), (65, "reference")):
        query = key = jax.ShapeDtypeStruct((8, 4, length, 64), dtype)
        assert kernels.choose_kernel("auto", query, key, key, PLAIN) == expected


WIDE_NORM = c.Attention(4, 2, 4, rope=c.Rope(), query_key_norm=c.Norm(offset=1.0), query_key_norm_over="heads")


@pytest.mark.parametrize(
    "sizes, layers, remat, mixer",
    [
        ({"context": 4, "tensor": 2}, "scan", "minimal", c.Attention(4, 2, 4, rope=c.Rope())),
        ({"context": 8}, "unroll", "none", c.Attention(4, 2, 4, rope=c.Rope(), window=7, score_cap=1.0, value_width=6)),
        ({"context": 2, "tensor": 2, "stage": 2}, "scan", "full", c.Attention(4, 2, 4, rope=c.Rope(), window=7)),
        ({"tensor": 2, "data": 2, "replica": 2}, "unroll", "none", WIDE_NORM),
    ],
    ids=["context and tensor", "context", "context, tensor and stage", "a norm over split heads"],
)
def test_a_model_on_a_mesh_has_the_same_gradients(sizes, layers, remat, mixer):
    """Packed rows through two layers, over devices and in a pipeline's stages against one device."""
    config = c.Model(32, 16, 32, (c.Stack((c.Block(mixer, c.MLP(24)),), 2),), init=c.Init(1.0, residual=0.3))
    random = np.random.default_rng(0)
    tokens = random.integers(0, 32, (4, 32)).astype(np.int32)
    segments = np.sort(random.integers(1, 4, (4, 32)), axis=1).astype(np.int32)

    def gradients(execution: c.Execution):
        order = time_order(32)
        model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()

        def loss(model, tokens_BT, segments_BT):
            tokens_BT, segments_BT = (shard(x, "batch", "time") for x in (tokens_BT, segments_BT))
            return (model.hidden(tokens_BT, segments_BT) ** 3).mean()

        return jax.jit(jax.value_and_grad(loss))(model, tokens[:, order], segments[:, order])

    alone = gradients(c.Execution(kernel="reference"))
    with jax.set_mesh(make_mesh(sizes)):
        there = gradients(c.Execution(kernel="auto", layers=layers, remat=remat))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(there), strict=True):
        assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * np.linalg.norm(a)


# The proof at the start of a run.


def shaped_model(**fields) -> c.Model:
    """A model whose attention has these fields."""
    return c.Model(32, 16, 512, (c.Stack((c.Block(c.Attention(8, 4, 16, **fields), c.MLP(24)),), 2),))


MODEL = shaped_model()
SHAPED_HEADS = {"window": 20, "score_cap": 2.0, "value_width": 24}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [{}, {"data": 4, "tensor": 2}, {"context": 4, "tensor": 2}], ids=str)
@pytest.mark.parametrize("name", ["auto", "ring"])
def test_our_kernels_prove_themselves(name, sizes, dtype):
    with jax.set_mesh(make_mesh(sizes, jax.devices()[:1] if not sizes else None)):
        proof.prove(MODEL, c.Execution(kernel=name, dtype=dtype), 512)


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_kernels_of_other_backends_prove_themselves_where_they_run_here(name, monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "other", kernels.KERNELS[name]._replace(
        attention=EVERYWHERE[name], portable=True, proof_length=128))  # fmt: skip
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})):
        proof.prove(MODEL, c.Execution(kernel="other", dtype="bfloat16"), 512)


WRONG = {
    "no documents": (lambda mask: dataclasses.replace(mask, segments_BT=None), 1.0, "see each other"),
    "a wrong scale": (lambda mask: mask, 1.1, "context is off"),
    "the next token": (lambda mask: dataclasses.replace(mask, query_slots_BT=mask.query_slots_BT + 1), 1.0, "off"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [{}, {"data": 4, "tensor": 2}, {"context": 4, "tensor": 2}], ids=str)
@pytest.mark.parametrize("change, factor, found", WRONG.values(), ids=WRONG)
def test_a_kernel_that_computes_something_else_is_refused(change, factor, found, sizes, dtype, monkeypatch):
    def wrong(query, key, value, mask, weight_dropout=(0.0, None), score_cap=None):
        return reference.attention(query * factor, key, value, change(mask), weight_dropout)

    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(wrong))
    with jax.set_mesh(make_mesh(sizes, jax.devices()[:1] if not sizes else None)), pytest.raises(KernelError) as error:
        proof.prove(MODEL, c.Execution(kernel="other", dtype=dtype), 512)
    assert_one_line(error, "execution.kernel=other", found, "set execution.kernel=reference")


def test_a_kernel_that_fails_on_whole_documents_alone_is_refused(monkeypatch):
    def wrong(query, key, value, mask, weight_dropout=(0.0, None), score_cap=None):
        shared = jnp.any(mask.segments_BT != mask.segments_BT[:, :1])
        return jnp.where(shared, 1, 1.1) * reference.attention(query, key, value, mask, weight_dropout)

    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(wrong))
    with pytest.raises(KernelError) as error:
        proof.prove(MODEL, c.Execution(kernel="other"), 512)
    assert_one_line(error, "execution.kernel=other", "context is off")


def test_a_kernel_with_wrong_gradients_is_refused(monkeypatch):
    def wrong(query, key, value, mask, weight_dropout=(0.0, None), score_cap=None):
        return reference.attention(query, jax.lax.stop_gradient(key), value, mask, weight_dropout)

    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(wrong))
    with pytest.raises(KernelError) as error:
        proof.prove(MODEL, c.Execution(kernel="other"), 512)
    assert_one_line(error, "execution.kernel=other", "gradient of key")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "fields, forgets",
    [
        ({"window": 20}, {"window": None}),
        ({"window": 20}, {"window": 21}),
        ({"window": 100_000}, {"window": None}),
        ({"score_cap": 2.0}, {"score_cap": None}),
        ({"score_cap": 50.0}, {"score_cap": None}),
    ],
)
def test_a_kernel_that_forgets_the_window_or_the_cap_is_refused(fields, forgets, dtype, monkeypatch):
    def wrong(query, key, value, mask, weight_dropout=(0.0, None), score_cap=None):
        score_cap = forgets.get("score_cap", score_cap)
        mask = dataclasses.replace(mask, window=forgets.get("window", mask.window))
        return reference.attention(query, key, value, mask, weight_dropout, score_cap)

    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(wrong))
    with pytest.raises(KernelError) as error:
        proof.prove(shaped_model(**fields), c.Execution(kernel="other", dtype=dtype), 512)
    assert_one_line(error, "execution.kernel=other", "is off by", "set execution.kernel=reference")


@pytest.mark.parametrize(
    "name, fields",
    [("ring", SHAPED_HEADS), ("blocks", SHAPED_HEADS), ("splash", SHAPED_HEADS), ("cudnn", {"window": 20})],
)
def test_kernels_of_windows_caps_and_value_widths_prove_themselves(name, fields, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 48)
    kernel = kernels.KERNELS[name]._replace(attention=EVERYWHERE[name], portable=True)
    kernel = kernel._replace(proof_length=min(kernel.proof_length, 128))
    monkeypatch.setitem(kernels.KERNELS, "other", kernel)
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})):
        proof.prove(shaped_model(**fields), c.Execution(kernel="other", dtype="bfloat16"), 512)


def test_a_kernel_that_does_not_run_here_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "other", kernels.KERNELS["cudnn"]._replace(portable=True))
    with pytest.raises(KernelError) as error:
        proof.prove(MODEL, c.Execution(kernel="other", dtype="bfloat16"), 512)
    assert_one_line(error, "execution.kernel=other does not run here", "set execution.kernel=reference")


def test_where_the_reference_computes_there_is_nothing_to_run(monkeypatch):
    monkeypatch.setattr(proof, "proof_rows", None)
    proof.prove(MODEL, c.Execution(), 64)
    proof.prove(MODEL, c.Execution(kernel="reference", dtype="bfloat16"), 512)


def assert_one_line(error, *parts: str):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
