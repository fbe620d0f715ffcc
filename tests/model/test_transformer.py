"""The Transformer against NumPy in float64, and the promises of its parts: causality, cache, remat, dropout, fields."""

import dataclasses
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import config as c
from model import kernels
from model.layers import Norm, ParameterFactory, dropout
from model.positions import sinusoids
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, WIDTH, CONTEXT = 31, 16, 24
ATTENTION = c.Attention(4, 2, 4, rope=c.Rope(), bias=True, output_bias=True)
BLOCK = c.Block(ATTENTION, c.MLP(24, "gelu", bias=True))
MIXTURE = c.MoE(4, 2, 12, shared=8, balance_rate=0.1)
PLACEMENTS = ("pre", "post_residual", "post_branch", "sandwich")
INIT = c.Init(embedding=1.0, residual=0.3)


def small(block: c.Block = BLOCK, repeats: int = 2, **fields) -> c.Model:
    fields = {"init": INIT, **fields}
    return c.Model(VOCAB, WIDTH, CONTEXT, (c.Stack((block,), repeats),), **fields)


def built(config: c.Model, **execution) -> Transformer:
    """A model whose biases and norm scales are random too."""
    model = jax.jit(lambda: Transformer(config, jax.random.key(0), c.Execution(**execution)))()
    leaves, structure = jax.tree.flatten(model)
    noise = np.random.default_rng(1)
    return structure.unflatten([leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32) for leaf in leaves])


def tokens(rows: int = 3, length: int = CONTEXT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)


@jax.jit
def logits(model, tokens_BT, segments_BT=None, positions_BT=None, key=None):
    return model.logits(model.hidden(tokens_BT, segments_BT, positions_BT, key))


@jax.jit
@jax.value_and_grad
def loss_and_gradients(model, tokens_BT, key=None):
    stream = model.residual_stream(tokens_BT, key=key)
    log_probability = jax.nn.log_softmax(model.logits(stream.x_BTD))
    loss = -jnp.take_along_axis(log_probability[:, :-1], tokens_BT[:, 1:, None], axis=-1).mean()
    return loss + stream.auxiliary_loss_B.mean()


# One block written out in NumPy, float64, one document, one row at a time.


def numpy_norm(x, norm, kind: str):
    x = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * norm["scale"]
    return x + norm["bias"] if "bias" in norm else x


def numpy_rotary(x_TNH, base: float = 10_000.0):
    """Rotary positions as complex numbers: features i and i + H/2 are one number's parts."""
    length, _, size = x_TNH.shape
    angle = np.arange(length)[:, None] * base ** (-2 * np.arange(size // 2) / size)
    number = (x_TNH[..., : size // 2] + 1j * x_TNH[..., size // 2 :]) * np.exp(1j * angle)[:, None]
    return np.concatenate([number.real, number.imag], axis=-1)


def numpy_attention(x_TD, weights, heads: int, kv_heads: int):
    query, key, value = (
        np.tensordot(x_TD, weights[name], 1) + weights[f"{name}_bias"] for name in ("query", "key", "value")
    )
    query, key = numpy_rotary(query), numpy_rotary(key)
    out = weights["output_bias"] * np.ones_like(x_TD)
    for head in range(heads):
        shared = head * kv_heads // heads
        for time in range(len(x_TD)):
            scores = key[: time + 1, shared] @ query[time, head] / np.sqrt(query.shape[-1])
            share = np.exp(scores - scores.max())
            out[time] += (share / share.sum()) @ value[: time + 1, shared] @ weights["output"][head]
    return out


def numpy_feed_forward(x_TD, weights):
    erf = np.vectorize(math.erf)
    up = x_TD @ weights["up"] + weights["up_bias"]
    return up * 0.5 * (1 + erf(up / np.sqrt(2))) @ weights["down"] + weights["down_bias"]


def float64(module) -> dict:
    """A module's parameters as nested dictionaries, the axis of layers gone."""
    if isinstance(module, nnx.Param):
        return np.asarray(module[...][0], np.float64)
    return {name: float64(part) for name, part in vars(module).items() if isinstance(part, nnx.Module | nnx.Param)}


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_block_computes_what_its_placement_says(placement, kind):
    norm = c.Norm(kind, bias=kind == "layer")
    config = small(replace(BLOCK, placement=placement, norm=norm), 1, final_norm=None)
    model = built(config)
    weights = float64(model.stacks[0].pattern[0])
    given = tokens(2, 9)
    branches = {
        "mixer": lambda x: numpy_attention(x, weights["mixer"], 4, 2),
        "feed_forward": lambda x: numpy_feed_forward(x, weights["feed_forward"]),
    }
    for row, found in zip(given, jax.jit(lambda m, x: m.hidden(x))(model, given), strict=True):
        x = np.asarray(model.embedding.table[...], np.float64)[row]
        for name, branch in branches.items():
            before = lambda x, n=name: numpy_norm(x, weights[f"{n}_norm"], kind)  # noqa: E731
            after = lambda x, n=name: numpy_norm(x, weights[f"{n}_post_norm"], kind)  # noqa: E731
            x = {
                "pre": lambda x, f=branch, b=before: x + f(b(x)),
                "post_residual": lambda x, f=branch, a=after: a(x + f(x)),
                "post_branch": lambda x, f=branch, a=after: x + a(f(x)),
                "sandwich": lambda x, f=branch, a=after, b=before: x + a(f(b(x))),
            }[placement](x)
        np.testing.assert_allclose(found, x, atol=2e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("sizes", [(6,), (2, 3)], ids=str)
def test_a_norm_multiplies_with_its_offset_and_scale(sizes, kind):
    """Over one axis or over two together; its result is multiplied with one at first, whatever the offset."""
    axes, random = ("heads", "head_width")[-len(sizes) :], np.random.default_rng(0)
    norm = Norm(c.Norm(kind, offset=0.75, epsilon=0.1), ParameterFactory(jax.random.key(0), c.Init()), axes, sizes)
    assert norm.scale[...].shape == sizes and (norm.scale[...] == 0.25).all()
    norm.scale[...] = jnp.asarray(random.standard_normal(sizes), jnp.float32)
    x = random.standard_normal((4, *sizes)).astype(np.float32)
    expected = x.astype(np.float64).reshape(4, 6)
    expected = expected - expected.mean(-1, keepdims=True) if kind == "layer" else expected
    expected = expected / np.sqrt((expected**2).mean(-1, keepdims=True) + 0.1)
    expected = expected.reshape(x.shape) * (0.75 + np.asarray(norm.scale[...], np.float64))
    np.testing.assert_allclose(norm(x), expected, rtol=2e-6, atol=1e-6)


def test_logits_are_capped_after_they_are_scaled():
    config = small(logit_scale=5.0)
    plain, capped = (np.asarray(logits(built(replace(config, logit_cap=cap)), tokens())) for cap in (None, 2.0))
    assert np.abs(plain).max() > 4
    np.testing.assert_allclose(capped, 2.0 * np.tanh(plain.astype(np.float64) / 2.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("token_shift", [0.0, 0.5])
def test_a_later_token_changes_no_earlier_logits(token_shift):
    model, given = built(small(replace(BLOCK, token_shift=token_shift))), tokens(1)
    other = given.copy()
    other[0, 13] = (other[0, 13] + 1) % VOCAB
    one, two = logits(model, given)[0], logits(model, other)[0]
    np.testing.assert_array_equal(one[:13], two[:13])
    assert (np.abs(one[13:] - two[13:]).max(-1) > 1e-6).all()


WINDOWED = replace(
    BLOCK, mixer=replace(ATTENTION, window=5, score_cap=2.0), norm=c.Norm(offset=1.0), placement="sandwich"
)
FEATURES = {
    "learned": small(replace(BLOCK, mixer=replace(ATTENTION, rope=None)), positions=c.Learned()),
    "sinusoidal": small(replace(BLOCK, mixer=replace(ATTENTION, rope=None)), positions=c.Sinusoidal()),
    "token_shift": small(replace(BLOCK, token_shift=0.5)),
    "query_key_norm": small(replace(BLOCK, mixer=replace(ATTENTION, query_key_norm=c.Norm()))),
    "one key-value head": small(replace(BLOCK, mixer=replace(ATTENTION, kv_heads=1))),
    "as many key-value heads": small(replace(BLOCK, mixer=replace(ATTENTION, kv_heads=4))),
    "mixture of experts": small(replace(BLOCK, feed_forward=MIXTURE)),
    "recurrent": small(c.Block(c.LSTM(), None, placement="plain"), final_norm=None),
    "two kinds of block": c.Model(
        VOCAB, WIDTH, CONTEXT, (c.Stack((BLOCK, replace(BLOCK, token_shift=0.25)), 2), c.Stack((BLOCK,), 1)), init=INIT
    ),
    "gated, untied, normed and scaled": small(
        replace(BLOCK, feed_forward=c.MLP(24, gated=True)),
        tied=False,
        embedding_norm=c.Norm("layer"),
        embedding_scale=3.0,
        logit_scale=0.5,
    ),
    "a window, a cap and a value width": small(
        replace(BLOCK, mixer=replace(ATTENTION, window=4, score_cap=1.5, value_width=6)), logit_cap=2.0
    ),
    "Gemma's": c.Model(
        VOCAB, WIDTH, CONTEXT, (c.Stack((WINDOWED, replace(WINDOWED, mixer=replace(ATTENTION, score_cap=2.0))), 2),),
        final_norm=c.Norm(offset=1.0), logit_cap=3.0, init=INIT,
    ),
    "query_key_norm over heads": small(
        replace(BLOCK, mixer=replace(ATTENTION, query_key_norm=c.Norm(), query_key_norm_over="heads"))
    ),
} | {placement: small(replace(BLOCK, placement=placement)) for placement in PLACEMENTS}  # fmt: skip
SHAPED = ["a window, a cap and a value width", "Gemma's", "query_key_norm over heads"]


@pytest.mark.parametrize(
    "name", ["learned", "sinusoidal", "token_shift", "two kinds of block", "post_residual", *SHAPED, "recurrent"]
)
def test_documents_of_a_packed_row_read_as_each_alone(name):
    model, lengths, given = built(FEATURES[name]), (7, 1, 11, 5), tokens(1)
    segments = np.repeat(np.arange(4, dtype=np.int32), lengths)[None]
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])[None]
    packed, start = logits(model, given, segments, positions), 0
    for length in lengths:
        alone = logits(model, given[:, start : start + length])
        np.testing.assert_allclose(packed[:, start : start + length], alone, atol=1e-5)
        start += length


@pytest.mark.parametrize("kernel", [n for n, k in kernels.KERNELS.items() if k.portable and n != "reference"])
def test_every_kernel_computes_what_the_reference_does(kernel):
    """Grouped heads, documents in one row, and the gradients."""
    given, segments = tokens(), np.repeat([[1, 2, 3]], CONTEXT // 3, axis=1).repeat(3, axis=0).astype(np.int32)
    reference, other = (built(small(), kernel=name) for name in ("reference", kernel))
    np.testing.assert_allclose(logits(other, given, segments), logits(reference, given, segments), atol=1e-5)
    pairs = zip(*(jax.tree.leaves(loss_and_gradients(model, given)) for model in (reference, other)), strict=True)
    for expected, found in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-5)


LAID_OUT = ["mixture of experts", "two kinds of block", "gated, untied, normed and scaled", "one key-value head"]
LAID_OUT += ["recurrent"]


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize(
    "name, in_panels", [*((name, None) for name in FEATURES), *((name, True) for name in LAID_OUT)]
)
def test_reading_in_ragged_chunks_through_the_cache_gives_the_same_logits(name, in_panels):
    kernel = "cached" if in_panels else "reference"  # as launch/machine/cpu has both
    model, given = built(FEATURES[name], panels=bool(in_panels), kernel=kernel), tokens()
    expected = np.asarray(logits(model, given))
    reader = model if in_panels is None else jax.jit(type(model).for_decoding)(model)
    read = jax.jit(lambda model, x, cache, count: model(x, cache, count))
    cache, lengths = jax.jit(lambda model: model.init_cache(3, CONTEXT + 8))(reader), np.zeros(3, int)
    for counts in ([8, 0, 3], [1, 8, 0], [5, 3, 8], [0, 1, 1]):
        chunk = np.full((3, 8), 7, np.int32)  # what stands after the real tokens must not matter
        for row, count in enumerate(counts):
            chunk[row, :count] = given[row, lengths[row] : lengths[row] + count]
        found, cache = read(reader, chunk, cache, np.array(counts, np.int32))
        for row, count in enumerate(counts):
            here = expected[row, lengths[row] : lengths[row] + count]
            np.testing.assert_allclose(found[row, :count], here, atol=1e-5)
        lengths += counts
    assert cache.length_B.tolist() == lengths.tolist()


@pytest.mark.parametrize("name", ["two kinds of block", "learned", "mixture of experts", "Gemma's", "recurrent"])
def test_scanned_and_unrolled_are_one_function_of_one_tree(name):
    scanned, unrolled = built(FEATURES[name]), built(FEATURES[name], layers="unroll")
    one, other = ([path for path, _ in jax.tree_util.tree_leaves_with_path(model)] for model in (scanned, unrolled))
    assert one == other
    assert_close(loss_and_gradients(scanned, tokens()), loss_and_gradients(unrolled, tokens()), 1e-5)


@pytest.mark.parametrize("remat, layers", [("minimal", "scan"), ("full", "unroll")])
def test_recomputation_changes_no_gradient(remat, layers):
    config = small(replace(BLOCK, dropout=0.2))
    key = jax.random.key(3)
    kept = loss_and_gradients(built(config), tokens(), key)
    assert_close(kept, loss_and_gradients(built(config, remat=remat, layers=layers), tokens(), key), 1e-5)


def assert_close(one, two, limit: float):
    """Every tensor, relative to its own norm."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a) + 1e-7, jax.tree_util.keystr(path)


def test_dropout_is_off_without_a_key_and_the_same_for_the_same_key():
    model = built(small(replace(BLOCK, dropout=0.5, mixer=replace(ATTENTION, dropout=0.5)), dropout=0.5))
    plain = built(small())
    np.testing.assert_array_equal(logits(model, tokens()), logits(plain, tokens()))
    one, again, other = (logits(model, tokens(), None, None, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def test_dropout_keeps_the_mean_and_zeroes_its_share():
    dropped = np.asarray(dropout(jnp.ones(100_000), 0.3, jax.random.key(0)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((dropped == 0).mean() - 0.3) < 0.006  # four standard deviations


def test_sinusoids_are_those_of_the_paper():
    positions = np.array([[0, 1, 17, 4095]])
    found = sinusoids(jnp.asarray(positions), 8, jnp.float32)
    for time, position in enumerate(positions[0]):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            np.testing.assert_allclose(found[0, time, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=5e-4)


@pytest.mark.parametrize(
    "config, published",
    [
        (  # Radford et al. 2019, as Hugging Face counts gpt2
            c.Model(
                50257, 768, 1024, positions=c.Learned(), final_norm=c.Norm("layer", bias=True),
                layers=(c.Stack((c.Block(c.Attention(12, 12, 64, bias=True, output_bias=True),
                                         c.MLP(3072, bias=True), c.Norm("layer", bias=True)),), 12),),
            ),
            124_439_808,
        ),
        (  # Touvron et al. 2023, Llama 2 7B
            c.Model(
                32000, 4096, 4096, tied=False,
                layers=(c.Stack((c.Block(c.Attention(32, 32, 128, rope=c.Rope()), c.MLP(11008, gated=True)),), 32),),
            ),
            6_738_415_616,
        ),
        (  # Llama 3 8B, grouped heads
            c.Model(
                128256, 4096, 8192, tied=False,
                layers=(c.Stack((c.Block(c.Attention(32, 8, 128, rope=c.Rope()), c.MLP(14336, gated=True)),), 32),),
            ),
            8_030_261_248,
        ),
    ],
    ids=["gpt2", "llama 2 7b", "llama 3 8b"],
)  # fmt: skip
def test_known_models_have_their_published_number_of_parameters(config, published):
    shapes = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published


@pytest.mark.parametrize("name", ["learned", "sandwich", "token_shift", *SHAPED[1:], "recurrent"])
def test_bfloat16_stays_near_float32(name):
    exact, rounded = (logits(built(FEATURES[name], dtype=dtype), tokens()) for dtype in ("float32", "bfloat16"))
    assert 1e-4 < np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 0.03


# Every field of every config is changed once; the lowered program of initialisation, loss and gradients must change.

EVERY = c.Block(
    replace(ATTENTION, query_key_norm=c.Norm(), dropout=0.1), c.MLP(24, gated=True), c.Norm("layer"), dropout=0.1
)
BASE = small(EVERY, dropout=0.1, positions=c.Learned())
CHANGES = {
    c.Model: {
        "vocab_size": 37, "width": 20, "context": 25, "layers": BASE.layers * 2, "positions": c.Sinusoidal(),
        "final_norm": None, "tied": False, "embedding_norm": c.Norm(), "embedding_scale": 2.0, "logit_scale": 2.0,
        "logit_cap": 30.0, "dropout": 0.2, "init": c.Init(),
    },
    c.Stack: {"pattern": (EVERY, EVERY), "repeats": 3},
    c.Block: {
        "mixer": replace(EVERY.mixer, bias=False), "feed_forward": c.MLP(25), "norm": c.Norm("rms"),
        "placement": "sandwich", "dropout": 0.2, "token_shift": 0.5,
    },
    c.Attention: {
        "heads": 2, "kv_heads": 4, "head_width": 6, "rope": None, "query_key_norm": None,
        "query_key_norm_over": "heads", "bias": False, "output_bias": False, "dropout": 0.2, "score_scale": 1.0,
        "score_cap": 50.0, "window": 5, "value_width": 6,
    },
    c.LSTM: {"forget_bias": 0.0},
    c.MLP: {"width": 25, "activation": "relu", "gated": False, "bias": True, "gate_bias": True},
    c.MoE: {
        "experts": 5, "active": 1, "width": 13, "activation": "relu", "gated": False, "score": "sigmoid",
        "normalised": False, "scale": 2.0, "shared": 4, "balance_loss": 0.1, "router_z_loss": 0.1, "balance_rate": 0.0,
    },
    c.Norm: {"kind": "rms", "epsilon": 1e-3, "scale": False, "bias": True, "offset": 1.0},
    c.Rope: {"base": 500.0, "scaling": c.LinearScaling(2.0)},
    c.LinearScaling: {"factor": 4.0},
    c.Llama3Scaling: {"factor": 4.0, "low_frequency": 2.0, "high_frequency": 200.0, "original_context": 512},
    c.YarnScaling: {
        "factor": 4.0, "original_context": 64, "beta_fast": 1.0, "beta_slow": 8.0, "attention_factor": 1.5,
        "truncate": False,
    },
    c.Learned: {},
    c.Sinusoidal: {},
    c.Init: {"embedding": 0.5, "weight": 0.5, "residual": 0.0},
    c.Execution: {
        "dtype": "bfloat16", "layers": "unroll", "remat": "full", "kernel": "other", "matmul": "int8",
        "panels": True, "quantize": "int8", "loss_chunks": 2, "stage_microbatches": 2, "cache": "int8",
        "precision": "bfloat16",
    },
}  # fmt: skip
# Not seen here, but in tests/train/test_step.py, test_schedule.py and tests/launch/test_cpu_products.py.
ELSEWHERE = {"loss_chunks", "stage_microbatches", "precision"}


def with_part(part) -> tuple[c.Model, c.Execution]:
    """The base model with one part in its place."""
    attention, block, stack, model, execution = EVERY.mixer, EVERY, BASE.layers[0], BASE, c.Execution()
    match part:
        case c.Execution():
            return model, part
        case c.Model():
            return part, execution
        case c.Init():
            return replace(model, init=part), execution
        case c.Stack():
            return replace(model, layers=(part,)), execution
        case c.Rope():
            block = replace(block, mixer=replace(attention, rope=part))
        case c.LinearScaling() | c.Llama3Scaling() | c.YarnScaling():
            block = replace(block, mixer=replace(attention, rope=c.Rope(scaling=part)))
        case c.Attention() | c.LSTM():
            block = replace(block, mixer=part)
        case c.MLP() | c.MoE():
            block = replace(block, feed_forward=part)
        case c.Norm():
            block = replace(block, norm=part)
        case c.Block():
            block = part
    return replace(model, layers=(replace(stack, pattern=(block,)),)), execution


def lowered(part) -> str:
    config, execution = with_part(part)

    def program(tokens_BT):
        model = Transformer(config, jax.random.key(0), execution)
        decoder = model.for_decoding()
        return loss_and_gradients.__wrapped__(model, tokens_BT, jax.random.key(1)), decoder, decoder.init_cache(1, 4)

    return jax.jit(program).lower(tokens()).as_text()


def base_of(kind):
    parts = (BASE, BASE.layers[0], EVERY, EVERY.mixer, EVERY.mixer.rope, EVERY.feed_forward, EVERY.norm, BASE.init)
    scalings = (c.LinearScaling(2.0), c.Llama3Scaling(2.0, 1.0, 400.0, 1024), c.YarnScaling(2.0, 1024))
    return next(part for part in (*parts, *scalings, MIXTURE, c.LSTM(), c.Execution()) if type(part) is kind)


def test_every_field_of_every_config_is_covered():
    classes = [k for k in vars(c).values() if dataclasses.is_dataclass(k) and k.__module__ == c.__name__]
    classes.remove(c.LoRA)  # no part of a model: tests/model/test_lora.py
    assert {k: {f.name for f in dataclasses.fields(k)} for k in classes} == {k: set(v) for k, v in CHANGES.items()}


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if CHANGES[kind]], ids=lambda kind: kind.__name__)
def test_every_field_matters(kind, monkeypatch, small_panels):
    monkeypatch.setitem(kernels.KERNELS, "other", kernels.Kernel(lambda query, *_: query))
    base = base_of(kind)
    before = lowered(base)
    changes = {name: value for name, value in CHANGES[kind].items() if name not in ELSEWHERE}
    assert not [name for name, value in changes.items() if lowered(replace(base, **{name: value})) == before]
