"""Every attention kernel against the formula in NumPy, float64, forward and backward, on one device and on meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


@dataclasses.dataclass(frozen=True)
class Rows:
    """Queries, keys, values, a gradient of the context and the documents of random rows, float32."""

    query_BNTH: np.ndarray
    key_BKSH: np.ndarray
    value_BKSH: np.ndarray
    context_gradient_BNTH: np.ndarray
    segments_BT: np.ndarray | None


def rows(
    length: int = 64, heads: int = 4, kv_heads: int = 2, batch: int = 2, size: int = 8, documents: int = 5
) -> Rows:
    """Documents of random lengths, a row's first and last longer than a quarter of it; 0 documents: no segments."""
    random = np.random.default_rng(0)
    shapes = [(batch, n, length, size) for n in (heads, kv_heads, kv_heads, heads)]
    segments = (
        np.sort(random.integers(1, documents + 1, (batch, length)), axis=1).astype(np.int32) if documents else None
    )
    query, *others = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Rows(np.float32(0.3) * query, *others, segments)  # queries come scaled


def arrays(given: Rows) -> list[np.ndarray]:
    """All but the documents."""
    return [given.query_BNTH, given.key_BKSH, given.value_BKSH, given.context_gradient_BNTH]


def numpy_attention(given: Rows) -> list[np.ndarray]:
    """The context and the gradients of query, key and value, one head of one row at a time."""
    (rows, heads, length, _), kv_heads = given.query_BNTH.shape, given.key_BKSH.shape[1]
    found = [np.zeros(x.shape) for x in (given.query_BNTH, given.query_BNTH, given.key_BKSH, given.value_BKSH)]
    for row, head in np.ndindex(rows, heads):
        shared = head * kv_heads // heads
        query, gradient = (x[row, head].astype(np.float64) for x in (given.query_BNTH, given.context_gradient_BNTH))
        key, value = (x[row, shared].astype(np.float64) for x in (given.key_BKSH, given.value_BKSH))
        seen = np.tri(length, dtype=bool)
        if given.segments_BT is not None:
            seen &= given.segments_BT[row][:, None] == given.segments_BT[row]
        scores = np.where(seen, query @ key.T, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        context = weights @ value
        score_gradient = weights * (gradient @ value.T - (gradient * context).sum(1, keepdims=True))
        found[0][row, head] = context
        found[1][row, head] = score_gradient @ key
        found[2][row, shared] += score_gradient.T @ query
        found[3][row, shared] += weights.T @ gradient
    return found


def program(attention, dtype=jnp.float32):
    """A function of (query, key, value, gradient, segments) to the context and the three gradients."""

    def run(query, key, value, gradient, segments):
        query, key, value, gradient = (x.astype(dtype) for x in (query, key, value, gradient))
        query, gradient = (shard(x, "batch", "heads", "time", None) for x in (query, gradient))
        key, value = (shard(x, "batch", "kv_heads", "time", None) for x in (key, value))
        segments = None if segments is None else shard(segments, "batch", "time")
        slots_T = jnp.asarray(time_order(query.shape[2]), jnp.int32)
        slots = shard(jnp.broadcast_to(slots_T, (query.shape[0], query.shape[2])), "batch", "time")
        context, back = jax.vjp(lambda *given: attention(*given, AttentionMask(slots, segments)), query, key, value)
        return context, *back(gradient)

    return run


def computed(attention, given: Rows, sizes: dict[str, int] | None = None, dtype=jnp.float32) -> list[np.ndarray]:
    """What `program` finds on a mesh of these sizes, in reading order."""
    with jax.set_mesh(make_mesh(sizes)) if sizes else jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
        order = time_order(given.query_BNTH.shape[2])
        segments = None if given.segments_BT is None else given.segments_BT[:, order]
        found = jax.jit(program(attention, dtype))(*(x[:, :, order] for x in arrays(given)), segments)
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


def test_backward_of_splash_finds_what_its_forward_kept_under_the_name_context():
    """The grid of a kernel is a loop here: of forward and backward with `minimal`, where nothing is kept of forward
    twice."""
    given = rows(128, documents=0)

    def loops(attention) -> int:
        with jax.set_mesh(make_mesh({"replica": 2, "tensor": 2}, jax.devices()[:4])):
            return jax.jit(program(attention)).lower(*arrays(given), None).compile().as_text().count(" while(")

    splash = EVERYWHERE["splash"]
    assert loops(remade(splash, MINIMAL)) == loops(splash) < loops(remade(splash, None))


@pytest.mark.parametrize("documents", [0, 3])
def test_cudnn_is_asked_for_causality_alone_where_a_row_is_one_document(documents, monkeypatch):
    asked, real = [], jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, **named: asked.append(named) or real(*x, **named))
    computed(EVERYWHERE["cudnn"], rows(documents=documents))
    assert [(x["is_causal"], x["mask"] is None) for x in asked] == [(not documents, not documents)]


REFUSED = {
    "a length that 128 does not divide": (splash, rows(200), jnp.bfloat16, ("200", "128 and 256")),
    "a length below 128": (splash, rows(100), jnp.bfloat16, ("100", " 128 ")),
    "float32": (cudnn, rows(), jnp.float32, ("float32", "execution.dtype=bfloat16")),
    "wide heads": (cudnn, rows(size=136), jnp.bfloat16, ("136", "128", "reference")),
    "heads of an odd width": (cudnn, rows(size=12), jnp.bfloat16, ("12", "reference")),
    "an odd length": (cudnn, rows(65), jnp.bfloat16, ("65", "reference")),
}


@pytest.mark.parametrize("kernel, given, dtype, parts", REFUSED.values(), ids=REFUSED)
def test_what_a_backends_kernel_cannot_take_is_said_in_one_line(kernel, given, dtype, parts):
    query, key = (jax.ShapeDtypeStruct(x.shape, dtype) for x in (given.query_BNTH, given.key_BKSH))
    reason = kernel.refusal(query, key, key, PLAIN, (0.0, None), None)
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
}


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
    return jax.jit(program(attention, dtype)).lower(*shapes).compile().as_text().count('tpu_custom_call"')


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


@pytest.mark.parametrize(
    "sizes, layers, remat",
    [
        ({"context": 4, "tensor": 2}, "scan", "minimal"),
        ({"context": 8}, "unroll", "none"),
        ({"context": 2, "tensor": 2, "stage": 2}, "scan", "full"),
    ],
)
def test_a_model_on_a_mesh_that_splits_time_has_the_same_gradients(sizes, layers, remat):
    """Two packed rows through two layers, over devices and in a pipeline's stages against one device."""
    mixer = c.Attention(4, 2, 4, rope=c.Rope())
    config = c.Model(32, 16, 32, (c.Stack((c.Block(mixer, c.MLP(24)),), 2),), init=c.Init(1.0, residual=0.3))
    random = np.random.default_rng(0)
    tokens = random.integers(0, 32, (2, 32)).astype(np.int32)
    segments = np.sort(random.integers(1, 4, (2, 32)), axis=1).astype(np.int32)

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

MODEL = c.Model(32, 16, 512, (c.Stack((c.Block(c.Attention(8, 4, 16), c.MLP(24)),), 2),))


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


def test_a_kernel_with_wrong_gradients_is_refused(monkeypatch):
    def wrong(query, key, value, mask, weight_dropout=(0.0, None), score_cap=None):
        return reference.attention(query, jax.lax.stop_gradient(key), value, mask, weight_dropout)

    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(wrong))
    with pytest.raises(KernelError) as error:
        proof.prove(MODEL, c.Execution(kernel="other"), 512)
    assert_one_line(error, "execution.kernel=other", "gradient of key")


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
