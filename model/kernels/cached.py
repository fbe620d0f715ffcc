"""The reference behind a barrier, for a decoder on CPU: keys and values are read where the cache holds them.

XLA's CPU compiler fuses the cache's update with what reads it, and then copies the whole cache first, at every token.
launch/machine/cpu asks for it; the numbers are the reference's.
"""

from __future__ import annotations

import jax

from model.kernels import reference


def attention(query_BNTH, key_BKSH, value_BKSH, *given) -> jax.Array:
    key_BKSH, value_BKSH = jax.lax.optimization_barrier((key_BKSH, value_BKSH))
    return reference.attention(query_BNTH, key_BKSH, value_BKSH, *given)
