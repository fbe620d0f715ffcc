"""A watermark that a text carries in its choice of tokens, and its detector, which needs no model.

chain.py names the link, launch/inference/watermark.py calls the detector.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np

from model.decode.links.link import Memoryless
from model.decode.parameters import Key, Number, parameter, parameterized, power_of_two


@parameterized
class Watermark(Memoryless):
    """Adds `delta` to the logits of the green tokens, a share `gamma` of the vocabulary that the last token chooses.

    The soft watermark of Kirchenbauer et al. 2023, algorithm 2, with a context of one token. Theirs draws a permutation
    of the vocabulary from a hash of key and last token, and calls its first part green. Here each token is green or not
    by a hash of key, last token and its own id, so that no permutation is made and one token is checked alone; of V
    tokens about gamma · V are green.
    """

    key: int = parameter(Key("a whole number from 0 to 2^64 - 1 that the detector is given too, as key=8675309"))
    gamma: float = parameter(Number("a share from 0.01 to 0.99, as gamma=0.25", least=0.01, most=0.99), default=0.25)
    delta: float = parameter(Number("a number from 0 to 100, as delta=2", least=0, most=100), default=2.0)

    def filter(self, state, logits_BV, key_B):
        newest_B1 = state.history.length_B[:, None] - 1
        last_B = jnp.take_along_axis(state.history.tokens_BS, newest_B1, axis=1)[:, 0]
        ids_V = jnp.arange(logits_BV.shape[1])
        green_BV = jax.vmap(green_tokens, (0, 0, None, 0))(self.key, last_B, ids_V, self.gamma)
        return logits_BV + self.delta[:, None] * green_BV


def green_tokens(key_W: jax.Array, last: jax.Array, ids: jax.Array, gamma: jax.Array) -> jax.Array:
    """Which of some ids are green behind one token, for a key of two words.

    The hash is Threefry-2x32 (Salmon et al. 2011) twice: it makes of the key and the last token the key for an id.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(key_W, impl="threefry2x32"), last)
    hashes = jax.vmap(lambda id: jax.random.key_data(jax.random.fold_in(key, id))[0])(ids)
    return (hashes >> 8).astype(jnp.float32) * 2.0**-24 < gamma


@dataclass(frozen=True)
class Detection:
    """What a text shows of a watermark.

    `tokens`: those counted, each with the one before it; a pair that comes again is not counted again, since its color
    is no new evidence (Kirchenbauer et al. 2023, 4.1). `z_score`: standard deviations of the green ones' number above
    its mean in other texts. `p_value`: the probability that another text has as many green ones.
    """

    tokens: int
    green_fraction: float
    z_score: float
    p_value: float

    def to_json(self) -> dict:
        return asdict(self)


def detect_watermark(ids: Sequence[int], key: int, gamma: float = 0.25) -> Detection:
    """Looks for the watermark of a key in the ids of a text, best without its prompt (Kirchenbauer et al. 2023, 4).

    Raises ValueError for a text of fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens holds no pair of tokens; a watermark shows in tens of them")
    pairs = np.array(sorted(set(itertools.pairwise(ids))), np.int32)
    count = len(pairs)
    padded = np.pad(pairs, ((0, power_of_two(count) - count), (0, 0)))  # few shapes, few programs
    green = int(
        np.asarray(green_pairs(padded, np.array(divmod(key, 2**32), np.uint32), np.float32(gamma)))[:count].sum()
    )
    z_score = (green - gamma * count) / math.sqrt(count * gamma * (1 - gamma))
    return Detection(count, green / count, z_score, binomial_tail(green, count, gamma))


@jax.jit
def green_pairs(pairs: jax.Array, key_W: jax.Array, gamma: jax.Array) -> jax.Array:
    """Which of some pairs of a token and its successor, int32 [N, 2], have a green successor: bool [N]."""
    return jax.vmap(lambda pair: green_tokens(key_W, pair[0], pair[1:], gamma)[0])(pairs)


def binomial_tail(least: int, count: int, p: float) -> float:
    """The probability of `least` or more successes in `count` independent trials of probability p."""
    number = np.arange(least, count + 1)
    log_factorial = np.array([math.lgamma(n + 1) for n in range(count + 1)])
    logarithms = log_factorial[count] - log_factorial[number] - log_factorial[count - number]
    return float(min(np.exp(logarithms + number * math.log(p) + (count - number) * math.log1p(-p)).sum(), 1))
