"""The reference behind an optimization barrier, for decoding on CPU: keys and values are read in place from the cache.

Without it XLA's CPU compiler fuses the cache's update with what reads the cache, and then copies the whole cache first,
at every token. launch/machine/cpu asks for this kernel; its numbers are the reference's.
"""

from __future__ import annotations

import jax

from model.kernels import reference


def attention(query_BNTH, key_BKSH, value_BKSH, *mask_and_dropout) -> jax.Array:
    key_BKSH, value_BKSH = jax.lax.optimization_barrier((key_BKSH, value_BKSH))
    return reference.attention(query_BNTH, key_BKSH, value_BKSH, *mask_and_dropout)
