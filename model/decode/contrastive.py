"""Contrastive search: a strategy whose rows are the candidates for the next token of one text. chain.py names it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.decode.links.link import last_token
from model.decode.parameters import Number, parameter, parameterized
from model.decode.strategies import MOST_ROWS, Choice
from model.decode.text_rows import join_texts, place_in_text, split_texts
from model.decode.trellis import Path


class Candidate(NamedTuple):
    """The memory of a row: the probability of its newest token, after the chain, -inf where that is no candidate; and
    whether the text has ended before the newest token of the row that was chosen last."""

    probability: jax.Array
    stopped: jax.Array


@parameterized
class ContrastiveSearch:
    """Contrastive search (Su et al. 2022, "A Contrastive Framework for Neural Text Generation"): of the k likeliest
    tokens the one with the greatest (1 - alpha) p - alpha s.

    s is the greatest cosine between the model's last hidden state at this token and that at a token before it, among
    those that the model still sees, the prompt's too. p is the probability after the chain's links. With alpha 0 this
    is greedy. Every token is read in all candidates, so that a text costs k times the forward passes, and one more.
    """

    k: int = parameter(
        Number(
            f"a whole number of candidates from 2 to {MOST_ROWS}, as contrastive_search=4",
            least=2,
            most=MOST_ROWS,
            whole=True,
        ),
        static=True,
    )
    alpha: float = parameter(
        Number("a number from 0 to 1, as contrastive_search(k=4,alpha=0.6)", least=0, most=1), default=0.6
    )

    streams, searches, compares, texts = False, True, True, 1

    @property
    def rows(self) -> int:
        return self.k

    def start(self, history):
        is_first_B = place_in_text(history.length_B, self.k) == 0  # the prompt's last token is chosen already
        return Candidate(jnp.where(is_first_B, 1.0, -jnp.inf), jnp.zeros_like(is_first_B))

    def __call__(self, logits_BV, state, key_B):
        history, (probability_B, _) = state.history, state.memory
        score_B = (1 - self.alpha) * jnp.maximum(probability_B, 0) - self.alpha * state.similarity_B
        score_B = jnp.where(probability_B == -jnp.inf, -jnp.inf, score_B)
        ended_B = (last_token(history)[:, None] == state.stop_BE).any(-1) & (history.length_B > history.prompt_B)
        is_complete_B = history.length_B >= state.text_limit_B
        given = (score_B, logits_BV, ended_B, is_complete_B)
        chosen = jax.vmap(choose)(*jax.tree.map(lambda x: split_texts(x, self.k), given))
        parent_B, token_B, probability_B, stopped_B, finished_B = jax.tree.map(join_texts, chosen)
        memory = Candidate(probability_B, stopped_B)
        return Choice(token_B, jnp.zeros_like(probability_B), memory, parent_B, finished_B)

    def rank(self, trellis, memory):
        """The text of the row that was chosen last: the last step drew no token but chose among those before it."""
        parent, tokens = trellis.drawn.parent, int((trellis.drawn.token[0] >= 0).sum())
        row = int(parent[0, -1])
        if memory.stopped[0]:
            return [Path(int(parent[row, tokens - 1]), tokens - 1, "stop")]
        return [Path(row, tokens, "length" if tokens == trellis.limit else "emptied")]


def choose(score_R, logits_RV, ended_R, is_complete_R):
    """One text's row that goes on, and the new candidates behind it; all has an axis R."""
    row, (rows, vocab_size) = score_R.argmax(), logits_RV.shape
    logits_V, stopped = logits_RV[row], ended_R[row]
    logit_R, token_R = jax.lax.top_k(logits_V, min(rows, vocab_size))
    missing = (0, rows - token_R.size)
    logit_R, token_R = jnp.pad(logit_R, missing, constant_values=-jnp.inf), jnp.pad(token_R, missing)
    probability_R = jnp.where(logit_R > -jnp.inf, jnp.exp(logit_R - jax.nn.logsumexp(logits_V)), -jnp.inf)
    finished = stopped | is_complete_R[row] | ~(logit_R > -jnp.inf).any()
    return jnp.full(rows, row), token_R, probability_R, jnp.full(rows, stopped), jnp.full(rows, finished)
