"""Beam search and diverse beam search: a strategy whose rows are the beams of one text. chain.py names it.

A beam is a text that goes on, a hypothesis one that has ended. A hypothesis is not copied: it is the row and the number
of tokens at which it left the trellis.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.decode.parameters import Number, Word, parameter, parameterized
from model.decode.strategies import MOST_ROWS, Choice
from model.decode.text_rows import join_texts, place_in_text, split_texts
from model.decode.trellis import Path

EARLY_STOPPING = (False, True, "never")


class Beams(NamedTuple):
    """The memory of a search. Each row has a beam and a place for a hypothesis; the best of a group come first.

    `score`: the sum of the beam's log-probabilities, -inf where there is no beam, as when a group is done.
    `hypothesis_score`: the sum of its log-probabilities, divided by its length to the power of the length penalty; -inf
    where there is none. `hypothesis_row`, `hypothesis_tokens`: its trellis.Path.
    """

    score: jax.Array
    hypothesis_score: jax.Array
    hypothesis_row: jax.Array
    hypothesis_tokens: jax.Array


class Ends(NamedTuple):
    """What may end the beams of one text: ids [E], -1 is none, and its new tokens before this one and at most."""

    stop_E: jax.Array
    tokens: jax.Array
    limit: jax.Array


def row_count(expected: str) -> Number:
    return Number(expected, least=1, most=MOST_ROWS, whole=True)


@parameterized
class Beam:
    """Beam search (Graves 2012), defined as in Hugging Face's `num_beams`: the likeliest texts that `width` beams find.

    Of all continuations of all beams the `width` best that do not end go on. Those that end, by a stop id or at the
    limit, become hypotheses if they are among the `width` best of all. A hypothesis scores the sum of its tokens'
    log-probabilities, the end token's too, divided by their number ** `length_penalty`; the `width` best are kept.
    The search ends when there are `width` of them and, by `early_stopping`: true, at once; false, the best beam would
    score less if it ended here; "never", if it ended at the limit with the probability it has now.

    The log-probabilities are those after the chain's links, of sum 1 (Hugging Face adds them up as a processor leaves
    them, so that a truncated distribution's stay lower). The prompt counts neither in sums nor in lengths.

    With `groups`, diverse beam search (Vijayakumar et al. 2016, algorithm 1): each of them has width / groups beams and
    searches by itself, but for a token that groups before it have chosen in the same place, `diversity` nats each time
    are taken off. This guides the choice alone and is no part of a score. The texts found are the best of each group,
    the best first, then the second of each.
    """

    width: int = parameter(row_count(f"a whole number of beams from 1 to {MOST_ROWS}, as beam=4"), static=True)
    length_penalty: float = parameter(
        Number("a number from -5 to 5, as beam(width=4,length_penalty=0.6)", least=-5, most=5), 1.0
    )
    early_stopping: bool | str = parameter(
        Word("true, false or never, as beam(width=4,early_stopping=true)", EARLY_STOPPING), False
    )
    groups: int = parameter(row_count("a whole number from 1, as beam(width=6,groups=3)"), 1, static=True)
    diversity: float = parameter(
        Number("a number of nats from 0, as beam(width=6,groups=3,diversity=0.5)", least=0), 0.5
    )

    streams, searches, compares = False, True, False

    def __post_init__(self):
        if self.width % self.groups:
            raise ValueError(f"width {self.width} is not divisible by groups {self.groups}; each has as many beams")

    @property
    def rows(self) -> int:
        return self.width

    @property
    def texts(self) -> int:
        return self.width

    def start(self, history):
        first_B = place_in_text(history.length_B, self.width // self.groups) == 0
        score_B, zero_B = jnp.where(first_B, 0.0, -jnp.inf), jnp.zeros_like(history.length_B)
        return Beams(score_B, jnp.full_like(score_B, -jnp.inf), zero_B, zero_B)

    def __call__(self, logits_BV, state, key_B):
        total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
        log_BV = jnp.where(logits_BV == -jnp.inf, -jnp.inf, logits_BV - total_B1)
        prompt_B = state.history.prompt_B
        ends = Ends(state.stop_BE, state.history.length_B - prompt_B, state.text_limit_B - prompt_B)
        given = jax.tree.map(lambda x: split_texts(x, self.width), (self, log_BV, ends, state.memory))
        beams, parent_B, token_B, finished_B = jax.tree.map(join_texts, jax.vmap(search)(*given))
        return Choice(token_B, jnp.zeros_like(total_B1[:, 0]), beams, parent_B, finished_B)

    def rank(self, trellis, memory):
        group, size = np.arange(self.width) // (self.width // self.groups), self.width // self.groups
        order = np.lexsort((group, -memory.hypothesis_score, np.arange(self.width) % size))
        paths = []
        for index in order[memory.hypothesis_score[order] != -np.inf]:
            row, tokens = int(memory.hypothesis_row[index]), int(memory.hypothesis_tokens[index])
            paths.append(Path(row, tokens, "length" if tokens == trellis.limit else "stop"))
        return paths


def search(beam: Beam, log_WV: jax.Array, ends: Ends, beams: Beams):
    """One token more for the beams of one text: (beams, parent, token, finished). All has an axis W.

    A search is finished without these tokens; one that they bring to the limit is not, since its texts hold them.
    """
    ends, size = jax.tree.map(lambda x: x[0], ends), beam.width // beam.groups
    groups, penalty_V = [], jnp.zeros_like(log_WV[0])
    for first in range(0, beam.width, size):
        rows = slice(first, first + size)
        before = jax.tree.map(lambda x, rows=rows: x[rows], beams)
        going_on, candidates = continuations(before, log_WV[rows], penalty_V, ends)
        after = end(before, going_on, candidates, ends, first, beam.length_penalty[0])
        done = is_done(after, ends, beam.length_penalty[0], beam.early_stopping[0])
        after = after._replace(score=jnp.where(done, -jnp.inf, after.score))
        is_beam_W = going_on.score != -jnp.inf
        groups.append((after, first + going_on.parent, going_on.token, is_beam_W))
        chosen_WV = (jnp.arange(penalty_V.size) == going_on.token[:, None]) & is_beam_W[:, None]
        penalty_V = penalty_V + beam.diversity[0] * chosen_WV.sum(0)
    beams, parent_W, token_W, is_beam_W = jax.tree.map(lambda *x: jnp.concatenate(x), *groups)
    finished = (beams.score == -jnp.inf).all() & ~(is_beam_W.any() & (ends.tokens + 1 >= ends.limit))
    return beams, parent_W, token_W, jnp.broadcast_to(finished, beam.width)


class Continuations(NamedTuple):
    """A group's beams with a token more, the best first: sums of log-probabilities, the beam continued, the token."""

    score: jax.Array
    parent: jax.Array
    token: jax.Array


class Candidates(NamedTuple):
    """The best of all continuations, best first. `row`: of one that goes on, its place among Continuations; of one that
    ends, the beam that it ends."""

    score: jax.Array
    row: jax.Array
    ends: jax.Array


def continuations(beams: Beams, log_WV, penalty_V, ends: Ends) -> tuple[Continuations, Candidates]:
    """The best W of a group's continuations that do not end, and the best W of all."""
    width, vocab_size = log_WV.shape
    is_stop_V = (jnp.arange(vocab_size)[:, None] == ends.stop_E).any(-1)
    gain_WK, token_WK = jax.lax.top_k(jnp.where(is_stop_V, -jnp.inf, log_WV - penalty_V), min(width, vocab_size))
    value_W, place_W = jax.lax.top_k((beams.score[:, None] + gain_WK).reshape(-1), width)
    parent_W, token_W = place_W // gain_WK.shape[1], token_WK.reshape(-1)[place_W]
    score_W = jnp.where(value_W == -jnp.inf, -jnp.inf, beams.score[parent_W] + log_WV[parent_W, token_W])

    is_token_E = (ends.stop_E >= 0) & (ends.stop_E < vocab_size)
    stop_gain_WE = jnp.where(is_token_E, log_WV[:, ends.stop_E.clip(0, vocab_size - 1)], -jnp.inf)
    ending_S = (beams.score[:, None] + stop_gain_WE).reshape(-1)
    _, best_W = jax.lax.top_k(jnp.concatenate([value_W, ending_S]), width)
    row_W = jnp.where(best_W < width, best_W, (best_W - width) // ends.stop_E.size)
    candidates = Candidates(jnp.concatenate([score_W, ending_S])[best_W], row_W, best_W >= width)
    return Continuations(score_W, parent_W, token_W), candidates


def end(beams: Beams, going_on: Continuations, best: Candidates, ends: Ends, first_row: int, length_penalty) -> Beams:
    """A group's beams after a token, with the best hypotheses of those it had and those that end now."""
    tokens = ends.tokens + 1
    is_hypothesis_W = best.ends | (tokens >= ends.limit)
    score_W = jnp.where(is_hypothesis_W, best.score / tokens.astype(jnp.float32) ** length_penalty, -jnp.inf)
    score, kept = jax.lax.top_k(jnp.concatenate([beams.hypothesis_score, score_W]), score_W.size)
    row = jnp.concatenate([beams.hypothesis_row, first_row + best.row])[kept]
    length = jnp.concatenate([beams.hypothesis_tokens, ends.tokens + ~best.ends])[kept]
    return Beams(going_on.score, score, row, length)


def is_done(beams: Beams, ends: Ends, length_penalty, early_stopping) -> jax.Array:
    """Whether a group's hypotheses stay as they are, as Beam.early_stopping has it."""
    tokens, worst = ends.tokens + 1, beams.hypothesis_score[-1]
    never = (early_stopping == EARLY_STOPPING.index("never")) & (length_penalty > 0)
    length = jnp.where(never, ends.limit, tokens).astype(jnp.float32)
    is_full, best = worst != -jnp.inf, beams.score.max()
    at_once = early_stopping == EARLY_STOPPING.index(True)
    return is_full & (at_once | ~(best / length**length_penalty > worst))
