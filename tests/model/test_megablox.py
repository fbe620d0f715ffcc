"""Grouped products by megablox's kernels, interpreted, against NumPy in float64, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import megablox

pytestmark = pytest.mark.timeout(120)
SIZES = {
    "uneven, one empty": (256, (100, 0, 37, 119)),
    "none, and rows of no group": (256, (0, 0, 0, 0)),
    "all of one, and others of no group": (256, (0, 200, 0, 0)),
    "rows that no tile divides": (200, (1, 0, 64, 130)),
}


@pytest.mark.parametrize("count, sizes", SIZES.values(), ids=SIZES)
def test_each_row_is_multiplied_with_its_groups_matrix(count, sizes):
    noise, width, output_width = np.random.default_rng(0), 40, 600  # less than a tile, and more than one
    rows, matrices, gradient = (
        noise.standard_normal(s) for s in ((count, width), (4, width, output_width), (count, output_width))
    )
    within, group = sum(sizes), np.repeat(np.arange(4), sizes)
    rows[within:] = gradient[within:] = np.nan  # undefined there, and nothing may come of it
    sizes_E = jnp.array(sizes, jnp.int32)
    product = lambda rows, matrices: megablox.grouped_matmul(rows, matrices, sizes_E, interpret=True)  # noqa: E731
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
