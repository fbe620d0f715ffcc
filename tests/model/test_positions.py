"""Rotary positions against Hugging Face transformers, and against float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.positions import apply_rotary, rotary_frequencies, rotary_sin_cos

torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
rope_functions = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
llama = pytest.importorskip("transformers.models.llama.modeling_llama")
transformers.logging.set_verbosity_error()  # on lengths that do not fit the factor

WIDTHS, BASES = st.sampled_from([2, 8, 64, 80, 128, 256]), st.sampled_from([100.0, 10_000.0, 500_000.0, 1e6, 1e7])
FACTORS, CONTEXTS = st.floats(1, 64), st.integers(16, 131_072)
LINEAR = st.builds(c.LinearScaling, FACTORS)
LLAMA3 = st.builds(
    lambda factor, low, apart, context: c.Llama3Scaling(factor, low, low + apart, context),
    FACTORS, st.floats(0.5, 4), st.floats(2, 8), CONTEXTS,
)  # fmt: skip
YARN = st.builds(
    c.YarnScaling, FACTORS, CONTEXTS, st.floats(2, 64), st.floats(0.1, 2), st.none() | st.floats(0.5, 2), st.booleans()
)
# Kind of scaling -> our configs of it, and their names for our fields.
SCALINGS = {
    "default": (st.none(), {}),
    "linear": (LINEAR, {"factor": "factor"}),
    "llama3": (
        LLAMA3,
        {
            "factor": "factor",
            "low_frequency": "low_freq_factor",
            "high_frequency": "high_freq_factor",
            "original_context": "original_max_position_embeddings",
        },
    ),
    "yarn": (
        YARN,
        {
            "factor": "factor",
            "original_context": "original_max_position_embeddings",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "attention_factor": "attention_factor",
            "truncate": "truncate",
        },
    ),
}


def their_config(kind: str, base: float, width: int, **parameters):
    rope = {"rope_type": kind, "rope_theta": base, **parameters}
    sizes = {"hidden_size": width, "num_attention_heads": 1, "head_dim": width, "max_position_embeddings": 131_072}
    return transformers.LlamaConfig(**sizes, rope_parameters=rope)


def their_rotary(x_BTNH: np.ndarray, positions_BT: np.ndarray, base: float, dtype) -> np.ndarray:
    embedding = llama.LlamaRotaryEmbedding(their_config("default", base, x_BTNH.shape[-1]))
    x = torch.tensor(x_BTNH).to(dtype)
    cosine, sine = embedding(x, torch.tensor(positions_BT))
    return llama.apply_rotary_pos_emb(x, x, cosine, sine, unsqueeze_dim=2)[0].double().numpy()


def our_rotary(x_BTNH: np.ndarray, positions_BT: np.ndarray, base: float, dtype) -> np.ndarray:
    sin_cos = rotary_sin_cos(c.Rope(base), jnp.asarray(positions_BT), x_BTNH.shape[-1])
    return np.asarray(apply_rotary(jnp.asarray(x_BTNH, dtype), sin_cos), np.float64)


def exact_rotary(x_BTNH: np.ndarray, positions_BT: np.ndarray, base: float) -> np.ndarray:
    """As complex numbers, float64: features i and i + H/2 are one number's parts."""
    size = x_BTNH.shape[-1]
    angle = positions_BT[..., None, None] * base ** (-2 * np.arange(size // 2) / size)
    number = (x_BTNH[..., : size // 2] + 1j * x_BTNH[..., size // 2 :]) * np.exp(1j * angle)
    return np.concatenate([number.real, number.imag], axis=-1)


def distance(found, exact) -> float:
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotary_frequencies_are_those_of_hugging_face(kind):
    """To three last bits of the frequency before it is scaled: powers differ by two from library to library, and Llama
    3's interpolation multiplies that."""
    scalings, names = SCALINGS[kind]

    @settings(deadline=None, max_examples=60)
    @given(WIDTHS, BASES, scalings)
    def compare(width, base, scaling):
        parameters = {theirs: getattr(scaling, ours) for ours, theirs in names.items()}
        config = their_config(kind, base, width, **parameters)
        if kind == "default":
            expected, expected_factor = llama.LlamaRotaryEmbedding(config).inv_freq, 1.0
        else:
            expected, expected_factor = rope_functions[kind](config, "cpu")
        found, factor = rotary_frequencies(c.Rope(base, scaling), width)
        limit = 1e-6 * rotary_frequencies(c.Rope(base), width)[0] if kind == "llama3" else 3e-7 * found
        assert (np.abs(found - expected.numpy()) <= limit).all()
        assert factor == pytest.approx(expected_factor, rel=1e-12)

    compare()


@pytest.mark.parametrize("mscale, mscale_all_dim", [(1.0, 1.0), (0.707, 1.0), (1.0, 0.5)])
def test_an_attention_factor_says_what_the_two_mscales_say(mscale, mscale_all_dim):
    """DeepSeek's config has these two instead; the factor is their quotient (Peng et al. 2023, eq. 22)."""
    factor = (0.1 * mscale * np.log(40.0) + 1) / (0.1 * mscale_all_dim * np.log(40.0) + 1)
    given = {"factor": 40.0, "original_max_position_embeddings": 4096}
    config = their_config("yarn", 10_000.0, 64, **given, mscale=mscale, mscale_all_dim=mscale_all_dim)
    expected, expected_factor = rope_functions["yarn"](config, "cpu")
    scaling = c.YarnScaling(40.0, 4096, attention_factor=factor)
    found, found_factor = rotary_frequencies(c.Rope(scaling=scaling), 64)
    np.testing.assert_allclose(found, expected.numpy(), rtol=3e-7)
    assert found_factor == pytest.approx(expected_factor, rel=1e-12)


def test_a_rotation_in_bfloat16_is_nearer_to_float64_than_theirs():
    """Ours rounds its result only; theirs sine, cosine and both products too."""
    random = np.random.default_rng(0)
    positions = random.integers(0, 4096, (1, 200))
    x = np.asarray(jnp.asarray(random.standard_normal((1, 200, 2, 64)), jnp.bfloat16), np.float64)
    exact = exact_rotary(x, positions, 10_000.0)
    ours = distance(our_rotary(x, positions, 10_000.0, jnp.bfloat16), exact)
    theirs = distance(their_rotary(x, positions, 10_000.0, torch.bfloat16), exact)
    assert ours < 2**-9 < theirs


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_scores_at_long_positions_are_as_exact_as_theirs(base):
    """Rows that begin at position 1,000,000: what is off is the angle in float32, in ours as in theirs."""
    random = np.random.default_rng(0)
    query, key = random.standard_normal((2, 1, 500, 1, 128)).astype(np.float32)
    positions = 1_000_000 + np.arange(500)[None]

    def scores(rotary) -> np.ndarray:
        rotated_query, rotated_key = rotary(query, positions), rotary(key, positions)
        return np.einsum("BTNH,BSNH->BNTS", rotated_query, rotated_key) / np.sqrt(128)

    exact = scores(lambda x, at: exact_rotary(x.astype(np.float64), at, base))
    ours = scores(lambda x, at: our_rotary(x, at, base, jnp.float32))
    theirs = scores(lambda x, at: their_rotary(x, at, base, torch.float32))
    assert distance(ours, exact) < 1.5 * distance(theirs, exact) < 0.02
