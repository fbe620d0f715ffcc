"""Grouped products by megablox's kernels, interpreted, and in windows, against NumPy in float64, both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import megablox, windows

pytestmark = pytest.mark.timeout(120)
SIZES = {
    "uneven, one empty": (256, (100, 0, 37, 119)),
    "none, and rows of no group": (256, (0, 0, 0, 0)),
    "all of one, and others of no group": (256, (0, 200, 0, 0)),
    "rows that no tile divides": (200, (1, 0, 64, 130)),
    "few rows": (5, (0, 2, 0, 3)),
    "one row": (1, (0, 0, 1, 0)),
}
MATMULS = {
    "megablox": functools.partial(megablox.grouped_matmul, interpret=True),
    "windows": jax.jit(windows.grouped_matmul),
}


@pytest.mark.parametrize("matmul", MATMULS.values(), ids=MATMULS)
@pytest.mark.parametrize("count, sizes", SIZES.values(), ids=SIZES)
def test_each_row_is_multiplied_with_its_groups_matrix(count, sizes, matmul):
    noise, width, output_width = np.random.default_rng(0), 40, 600  # less than a tile, and more than one
    rows, matrices, gradient = (
        noise.standard_normal(s) for s in ((count, width), (4, width, output_width), (count, output_width))
    )
    within, group = sum(sizes), np.repeat(np.arange(4), sizes)
    rows[within:] = gradient[within:] = np.nan  # undefined there, and nothing may come of it
    sizes_E = jnp.array(sizes, jnp.int32)
    product = lambda rows, matrices: matmul(rows, matrices, sizes_E)  # noqa: E731
    found, transpose = jax.vjp(product, *(jnp.asarray(x, jnp.float32) for x in (rows, matrices)))
    rows_gradient, matrices_gradient = transpose(jnp.asarray(gradient, jnp.float32))
    wanted = np.zeros_like(matrices)
    np.add.at(wanted, group, rows[:within, :, None] * gradient[:within, None, :])
    for a, b in (
        (found[:within], np.einsum("rd,rdf->rf", rows[:within], matrices[group])),
        (rows_gradient[:within], np.einsum("rf,rdf->rd", gradient[:within], matrices[group])),
        (matrices_gradient, wanted),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_windows_multiply_no_row_with_all_matrices():
    """The FLOPs of the compiled loop's body are those of one window; all groups together need few windows."""
    rows, matrices = jnp.ones((1024, 16)), jnp.ones((8, 16, 32))
    sizes_E = jnp.array([300, 1, 0, 63, 64, 65, 500, 31], jnp.int32)
    covering = windows.cover_groups(len(rows), sizes_E)
    assert (covering.size, int(covering.count)) == (64, 5 + 1 + 0 + 1 + 1 + 2 + 8 + 1)
    flops = jax.jit(windows.grouped_matmul).lower(rows, matrices, sizes_E).compile().cost_analysis()["flops"]
    assert flops < 2 * 64 * 16 * 32 * 1.5  # XLA counts a loop's body once


def test_gradients_of_bfloat16_matrices_are_added_up_in_float32():
    rows, gradient = jnp.full((4096, 1), 1, jnp.bfloat16), jnp.full((4096, 1), 1, jnp.bfloat16)
    matrices, sizes_E = jnp.ones((2, 1, 1), jnp.bfloat16), jnp.array([4095, 1], jnp.int32)
    _, transpose = jax.vjp(lambda m: windows.grouped_matmul(rows, m, sizes_E), matrices)
    np.testing.assert_array_equal(np.ravel(transpose(gradient)[0]).astype(float), [4096, 1])  # 4095 is no bfloat16
