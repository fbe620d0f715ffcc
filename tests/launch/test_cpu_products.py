"""Products with operands rounded to bfloat16 (launch/machine/cpu/products.py), against NumPy in float64."""

import functools
import string

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from launch.machine.cpu import barriers, products
from launch.machine.processor import multiplies_bfloat16

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not multiplies_bfloat16(), reason="needs a processor with AVX-512's products of bfloat16"),
]
# Products of layers, of attention, of Muon and of logits. Sizes are odd, prime, of a vector register, of several.
FORMULAS = ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,DF->BTF", "BTD,VD->BTV", "BNTH,BNSH->BNTS", "BNTS,BNSH->BNTH"]
FORMULAS += [
    "LMN,LKN->LMK",
    "LMK,LKN->LMN",
    "TD,TF->DF",
    "DT,TF->DF",
    "BTD,BTF->DF",
    "DB,TBF->DTF",
    "BD,BDF->BF",
    "B,BD->D",
]
SIZES = [dict(zip(string.ascii_uppercase, sizes, strict=True)) for sizes in ([24] * 26, [17, 64] * 13, [65, 8] * 13)]


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("sizes", SIZES, ids=["24", "17 and 64", "65 and 8"])
def test_products_and_their_gradients_are_those_of_rounded_operands(formula, sizes, monkeypatch):
    """Gradients are products too: all three at once, as in a training step."""
    monkeypatch.setattr(products, "LEAST", 0)
    operands, out = formula.split("->")
    noise = np.random.default_rng(0)
    x, y, g = (
        noise.standard_normal([sizes[axis] for axis in axes]).astype(np.float32) for axes in (*operands.split(","), out)
    )

    @functools.partial(barriers.rewrite, rounded=True)
    def step(x, y, g):
        product, transpose = jax.vjp(functools.partial(jnp.einsum, formula), x, y)
        return product, *transpose(g)

    found = jax.jit(step)(x, y, g)
    first, second = operands.split(",")
    wanted = [
        np.einsum(formula, rounded(x), rounded(y)),
        np.einsum(f"{out},{second}->{first}", rounded(g), rounded(y)),
        np.einsum(f"{first},{out}->{second}", rounded(x), rounded(g)),
    ]
    has_vector = formula in ("BD,BDF->BF", "B,BD->D")  # some of whose products stay in float32
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=(3e-2 if has_vector else 1e-5) * np.abs(b).max())


def test_products_in_the_body_of_a_loop_are_rounded():
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    step = barriers.rewrite(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=2)[0], rounded=True)
    wanted = rounded(np.float32(rounded(x) @ rounded(x))) @ rounded(x)
    np.testing.assert_allclose(jax.jit(step)(x), wanted, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(wanted - x.astype(np.float64) @ x @ x).max() > 1e-3 * np.abs(wanted).max()


def test_what_asks_for_a_precision_keeps_it():
    x = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    step = barriers.rewrite(lambda x: jnp.matmul(x, x, precision="highest"), rounded=True)
    np.testing.assert_allclose(jax.jit(step)(x), x.astype(np.float64) @ x, atol=1e-4)


def test_small_products_stay_in_float32():
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    step = barriers.rewrite(lambda x: x @ x, rounded=True)
    np.testing.assert_allclose(jax.jit(step)(x), x.astype(np.float64) @ x, atol=1e-4)
