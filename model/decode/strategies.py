"""SEAM 3c, strategies: how a token is chosen from the logits that a chain ends with. draw.py calls them, chain.py names
them. Here are those whose rows do not see each other; beam.py has the search.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from model.decode.links.link import History, LinkState
from model.decode.parameters import Number, Word, parameter, parameterized
from model.decode.trellis import Path, Trellis

MOST_ROWS = 1024  # of one text


class Choice(NamedTuple):
    """The next token of every row [B], and which row it continues.

    `parent_B`: each row becomes another row of its text, from 0 to Strategy.rows - 1, with this token behind it: it
    takes that row's cache, history and memories. None: every row stays itself. `memory` is in the new order already.
    `finished_B`: rows that end with this token, by the strategy; None: stop ids and limits alone decide.
    `log_probability_B`: of this choice, in nats, as the strategy makes it.
    """

    token_B: jax.Array
    log_probability_B: jax.Array
    memory: Any = ()
    parent_B: jax.Array | None = None
    finished_B: jax.Array | None = None


class Strategy(Protocol):
    """A way to choose tokens.

    `rows`: how many rows of a batch, side by side, write one text. `streams`: each token is the text's next one as soon
    as it is drawn; if not, `rank` finds the text when all rows have ended. `searches`: the rows of a text exchange
    places (Choice.parent_B), and the samples of a prompt are the best texts of one search, of which it finds `texts`.
    `compares`: it sees LinkState.similarity_B, and reads the last token of a text too, before it says that it is
    finished.
    """

    rows: int
    streams: bool
    searches: bool
    compares: bool
    texts: int

    def start(self, history: History) -> Any:
        """The memory before the first new token: any pytree of arrays with a first axis B."""
        ...

    def __call__(self, logits_BV: jax.Array, state: LinkState, key_B: jax.Array) -> Choice:
        """float32 logits [B, V] and each row's key for this token -> the choice."""
        ...

    def rank(self, trellis: Trellis, memory: Any) -> list[Path]:
        """The texts that rows have written, best first. `memory`: theirs at the end, NumPy arrays [R, …]."""
        ...


class OneRow:
    """A strategy whose rows are texts of their own, and that remembers nothing."""

    rows, streams, searches, compares, texts = 1, True, False, False, 1

    def start(self, history: History) -> tuple:
        return ()


@parameterized
class Sample(OneRow):
    """A draw from softmax(logits) as argmax(logits + Gumbel noise) (Gumbel 1954; Maddison et al. 2014).

    The noise of a row depends on its key alone, and so not on the other rows of its batch.
    """

    def __call__(self, logits_BV, state, key_B):
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:], jnp.float32))(key_B)
        token_B = first_of_greatest(logits_BV + noise_BV)
        return Choice(token_B, log_probability(logits_BV, token_B))


@parameterized
class Greedy(OneRow):
    """The likeliest token; of equally likely ones that with the lowest id."""

    def __call__(self, logits_BV, state, key_B):
        token_B = first_of_greatest(logits_BV)
        return Choice(token_B, jnp.zeros_like(logits_BV[:, 0]))


@parameterized
class BestOf(Sample):
    """Draws n texts and keeps the one that the model itself finds likeliest, by its log-probability, end token counted.

    `score`: mean over its tokens, or their sum, which favours short texts. The n texts of sample i are those that
    Sample writes as samples i n to i n + n - 1. Links do not change the score: it is the model's before the chain.
    """

    n: int = parameter(
        Number(f"a whole number of texts from 1 to {MOST_ROWS}, as best_of=4", least=1, most=MOST_ROWS, whole=True),
        static=True,
    )
    score: str = parameter(Word("mean or sum, as best_of(n=4,score=sum)", ("mean", "sum")), "mean")

    streams = False

    @property
    def rows(self) -> int:
        return self.n

    def rank(self, trellis, memory):
        return sorted(
            (Path(row, int((token_T >= 0).sum()), reason) for row, (token_T, reason) in enumerate(
                zip(trellis.drawn.token, trellis.finish_reasons, strict=True)
            )),
            key=lambda path: (path.finish_reason == "emptied", -self.likelihood(trellis, path)),
        )  # fmt: skip

    def likelihood(self, trellis: Trellis, path: Path) -> float:
        """The score of one row's text, in nats."""
        draws = path.tokens + (path.finish_reason == "stop")
        total = trellis.drawn.log_probability[path.row, :draws].astype(float).sum()
        return total / max(draws, 1) if self.score == "mean" else total


def first_of_greatest(x_BV: jax.Array) -> jax.Array:
    """argmax, as two plain reductions: one over pairs of value and index takes thrice as long on a CPU."""
    size = x_BV.shape[-1]
    is_greatest_BV = x_BV == x_BV.max(-1, keepdims=True)
    index_B = jnp.where(is_greatest_BV, jnp.arange(size, dtype=jnp.int32), size).min(-1)
    return jnp.minimum(index_B, size - 1)  # nothing equals NaN


def row_keys(seed_BW: jax.Array, sample_B: jax.Array, position_B: jax.Array) -> jax.Array:
    """A random key for each row's next token, from its seed (two uint32 words), sample index and position."""

    def key(seed_W, sample, position):
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(seed_W), sample), position)

    return jax.vmap(key)(seed_BW, sample_B, position_B)


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The natural logarithm of one token's probability in each row. [B, V], [B] -> [B]."""
    chosen_BV = jnp.arange(logits_BV.shape[1]) == token_B[:, None]
    return jnp.where(chosen_BV, logits_BV, 0).sum(-1) - jax.nn.logsumexp(logits_BV, axis=-1)
