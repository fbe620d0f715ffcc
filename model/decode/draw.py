"""One token of every row: the chain applied to the model's logits, the strategy's choice, the history after it.

generate.py and every other loop of the decoder call `draw`, so that a text is the same whichever loop writes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.chain import Chain
from model.decode.links.link import History, LinkState
from model.decode.strategies import log_probability, row_keys
from model.decode.text_rows import join_texts, place_in_text, split_texts
from model.sharding import shard


class Requests(NamedTuple):
    """The request of each row. All of it is arrays, so that one program serves every request of its shape.

    `chain`: one whose parameters have an axis B in front (chain.stack_chains); its kinds are the program's.
    """

    seed_BW: jax.Array  # uint32, two words
    sample_B: jax.Array
    limit_B: jax.Array  # tokens of the row, prompt included, at which it ends, or its window of the context does
    text_limit_B: jax.Array  # tokens at which it is complete, in whichever window
    stop_BE: jax.Array  # ids that end the row; -1 is none
    chain: Chain


class Texts(NamedTuple):
    """The texts of a batch while they are written: all of a row but what its model remembers."""

    history: History
    memories: tuple[Any, ...]  # of the chain's links, then of its strategy
    finished_B: jax.Array


class Drawn(NamedTuple):
    """What one draw, or several, of a row came to. A draw's arrays are [B]; those of a dispatch [B, C].

    Logarithms are natural. `truncated`: the probability, by the source, of all tokens that the chain's links ruled out.
    `emptied`: the index of the link that left no token, -1 where each left one. `parent`: Choice.parent_B of a strategy
    that searches.
    """

    token: jax.Array  # -1 where the row drew none, or ended with a stop id
    log_probability: jax.Array  # by the source: the model itself, or what guidance or contrast make of it
    chain_log_probability: jax.Array  # after the chain
    choice_log_probability: jax.Array  # as the strategy chose: 0 where it had no choice
    truncated: jax.Array
    emptied: jax.Array
    parent: jax.Array | None = None


def no_draws(rows: int, draws: int, searches: bool) -> Drawn:
    """Room for so many draws of each row."""
    zeros, nothing = jnp.zeros((rows, draws)), jnp.full((rows, draws), -1, jnp.int32)
    return Drawn(nothing, zeros, zeros, zeros, zeros, nothing, nothing if searches else None)


def start(history: History, chain: Chain, finished_B: jax.Array, vocab_size: int) -> Texts:
    """Texts before their first new token."""
    history, chain, finished_B = shard_rows((history, chain, finished_B))
    memories = tuple(link.start(history, vocab_size) for link in chain.links)
    return Texts(history, (*memories, chain.strategy.start(history)), finished_B)


def draw(texts: Texts, requests: Requests, logits_BV: jax.Array, similarity_B=None) -> tuple[Texts, Drawn]:
    """Draws one token for every unfinished row from the model's logits, float32 [B, V]; `similarity_B` as in LinkState.

    Returns the texts with it, and what was drawn; the caller gives each row the cache of its `parent`.
    """
    key_B = row_keys(requests.seed_BW, requests.sample_B, texts.history.length_B)
    memories, chain_logits_BV, emptied_B = apply_links(texts, requests, logits_BV, key_B)
    state = LinkState(texts.history, requests.stop_BE, texts.memories[-1], requests.text_limit_B, similarity_B)
    choice = requests.chain.strategy(chain_logits_BV, state, key_B)
    parent_B, has_logits_B = choice.parent_B, jnp.isfinite(logits_BV).any(-1)
    emptied_B = jnp.where(has_logits_B, emptied_B, -1)  # a model without probabilities: not its doing
    if parent_B is not None:
        rows = requests.chain.strategy.rows
        parent_B = jnp.where(texts.finished_B, place_in_text(parent_B, rows), parent_B)
        moved = (texts, memories, logits_BV, chain_logits_BV, emptied_B)
        texts, memories, logits_BV, chain_logits_BV, emptied_B = take_parents(moved, parent_B, rows)
    active_B, token_B = ~texts.finished_B, choice.token_B
    if choice.finished_B is None:
        stopped_B = (token_B[:, None] == requests.stop_BE).any(-1)
    else:  # a search goes on while any of its rows has tokens left
        stopped_B, emptied_B = choice.finished_B, jnp.where(choice.finished_B, emptied_B, -1)
    drawn = Drawn(
        jnp.where(active_B & ~stopped_B & (emptied_B < 0), token_B, -1),
        log_probability(logits_BV, token_B),
        log_probability(chain_logits_BV, token_B),
        choice.log_probability_B,
        truncated_mass(logits_BV, chain_logits_BV),
        jnp.where(active_B, emptied_B, -1),
        parent_B,
    )
    history, memories = append_token(texts.history, token_B, active_B), (*memories, choice.memory)
    memories = jax.tree.map(lambda new, old: jnp.where(expand(active_B, new), new, old), memories, texts.memories)
    finished_B = texts.finished_B | stopped_B | (emptied_B >= 0) | (history.length_B >= requests.limit_B)
    return Texts(history, memories, finished_B), drawn


def apply_links(texts: Texts, requests: Requests, logits_BV, key_B):
    """Runs the links: their memories, the logits [B, V] after them, and the index [B] of the link that emptied each."""
    memories, emptied_B = [], jnp.full_like(requests.limit_B, -1)
    for index, link in enumerate(requests.chain.links):
        link_key_B = jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(key_B)
        state = LinkState(texts.history, requests.stop_BE, texts.memories[index], requests.text_limit_B)
        memory, logits_BV = link(state, logits_BV, link_key_B)
        memories.append(memory)
        empty_B = ~(logits_BV > -jnp.inf).any(-1)
        emptied_B = jnp.where((emptied_B < 0) & empty_B, index, emptied_B)
    return tuple(memories), logits_BV, emptied_B


def truncated_mass(logits_BV, chain_logits_BV) -> jax.Array:
    """The probability by the first logits of all tokens that the second rule out: [B, V] -> [B]."""
    return jnp.where(chain_logits_BV > -jnp.inf, 0, jax.nn.softmax(logits_BV)).sum(-1)


def vocabulary_logits(logits_BV: jax.Array, vocab_size: int) -> jax.Array:
    """A model's logits [B, V] in float32, -inf for the padding of its vocabulary."""
    logits_BV = shard(logits_BV.astype(jnp.float32), "batch", None)
    return jnp.where(jnp.arange(logits_BV.shape[1]) < vocab_size, logits_BV, -jnp.inf)


def append_token(history: History, token_B, active_B) -> History:
    """The history with one more token in each active row."""
    next_BS = (jnp.arange(history.tokens_BS.shape[1]) == history.length_B[:, None]) & active_B[:, None]
    return History(
        jnp.where(next_BS, token_B[:, None], history.tokens_BS), history.length_B + active_B, history.prompt_B
    )


def shard_rows(tree: Any) -> Any:
    """A pytree of arrays with an axis B in front, split over the mesh as batches are."""
    return jax.tree.map(lambda x: shard(x, "batch", *[None] * (x.ndim - 1)), tree)


def take_parents(tree: Any, parent_B: jax.Array, rows: int) -> Any:
    """A pytree of arrays with an axis B in front, in which each row is that of its text (of `rows` rows) that
    `parent_B` names. A text's rows are on one device, so that nothing moves between devices."""

    def take(x):
        return join_texts(jax.vmap(lambda x, parent: x[parent])(split_texts(x, rows), parent_NR))

    parent_NR = split_texts(parent_B, rows)
    return jax.tree.map(take, tree)


def expand(x_B: jax.Array, like: jax.Array) -> jax.Array:
    """[B] -> [B, 1, …], with as many axes as another array."""
    return x_B.reshape(-1, *[1] * (like.ndim - 1))
