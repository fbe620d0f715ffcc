"""Many draws a forward pass: whatever drafts come with a text, the text is the one that Generator writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model.cache import PageLayout
from model.decode.advance import Tokens, advance
from model.decode.chain import Chain, parse_chain, stack_chains
from model.decode.draw import Requests, start
from model.decode.generate import Generator
from model.decode.links.link import History
from model.decode.links.truncation import Temperature
from model.decode.parameters import parameterized
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, PADDED, CONTEXT, SIZE, COLUMNS = 29, 32, 64, 8, 6
ATTENTION = c.Attention(4, 2, 8, rope=c.Rope())
STOP = 3


@parameterized
class NewTokensOnly:
    """A link with a memory: it rules out what the row has drawn since it began."""

    def start(self, history, vocab_size):
        return jnp.zeros((history.length_B.shape[0], PADDED), bool)

    def __call__(self, state, logits_BV, key_B):
        index_B = jnp.maximum(state.history.length_B - 1, 0)
        last_B = jnp.take_along_axis(state.history.tokens_BS, index_B[:, None], axis=1)
        is_new_B1 = (state.history.length_B > state.history.prompt_B)[:, None]
        drawn_BV = state.memory | (is_new_B1 & (jnp.arange(logits_BV.shape[1]) == last_B))
        return drawn_BV, jnp.where(drawn_BV, -jnp.inf, logits_BV)


jitted_advance = jax.jit(advance, static_argnames="vocab_size")
CHAINS = [parse_chain("temperature=0.9,top_k=9"), Chain((NewTokensOnly(), Temperature(0.8)))]


@functools.cache
def model() -> Transformer:
    stack = c.Stack((c.Block(ATTENTION, c.MLP(32, gated=True)),), 2)
    config = c.Model(PADDED, 16, CONTEXT, (stack,), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


def prompts() -> list[list[int]]:
    return [np.random.default_rng(seed).integers(0, VOCAB, length).tolist() for seed, length in enumerate((5, 1, 17))]


@functools.cache
def expected(chain: Chain) -> list:
    writer = Generator(model(), vocab_size=VOCAB, context=CONTEXT)
    return writer.generate(prompts(), chain=chain, max_new_tokens=16, seed=4, stop_ids=[STOP])


def requests(chain: Chain) -> Requests:
    seed_BW, stop_BE = np.array([[0, 4]] * 3, np.uint32), np.full((3, 1), STOP, np.int32)
    limit_B = np.array([len(prompt) + 16 for prompt in prompts()], np.int32)
    return Requests(seed_BW, np.zeros(3, np.int32), limit_B, limit_B, stop_BE, stack_chains([chain] * 3))


def write(chain: Chain, draft) -> tuple[list[list[int]], list[list[float]], int]:
    """Three texts, from the prompt to the end; `draft(row, text)` proposes their next tokens. Also returns the number
    of forward passes."""
    network = model()
    tables_Bn = 1 + np.arange(3 * CONTEXT // SIZE, dtype=np.int32).reshape(3, -1)
    memory = network.init_pages(3, PageLayout(tables_Bn.size + 1, SIZE))
    tokens_BS, given = np.zeros((3, CONTEXT), np.int32), requests(chain)
    for row, prompt in enumerate(prompts()):
        tokens_BS[row, : len(prompt)] = prompt
    length_B = np.array([len(prompt) for prompt in prompts()], np.int32)
    texts = start(History(tokens_BS, length_B, length_B), given.chain, np.zeros(3, bool), PADDED)
    read_B, found, passes = np.zeros(3, np.int32), [([], []) for _ in range(3)], 0
    while not (finished_B := np.asarray(texts.finished_B)).all():
        tokens_BT, known_B, count_B = np.full((3, COLUMNS), 7, np.int32), np.zeros(3, np.int32), np.zeros(3, np.int32)
        history = jax.device_get(texts.history)
        for row in range(3):
            if not finished_B[row]:
                text = history.tokens_BS[row, : history.length_B[row]].tolist()
                piece = text[read_B[row] : read_B[row] + COLUMNS]
                known_B[row] = len(piece)
                piece += draft(row, text)[: COLUMNS - len(piece)] if read_B[row] + len(piece) == len(text) else []
                tokens_BT[row, : len(piece)], count_B[row] = piece, len(piece)
        complete_B = read_B + known_B == history.length_B
        pages = (np.arange(3, dtype=np.int32), read_B, tables_Bn)
        tokens = Tokens(*pages, tokens_BT, known_B, count_B, complete_B)
        memory, texts, drawn = jitted_advance(network, memory, tokens, texts, given, vocab_size=VOCAB)
        drawn = jax.device_get(drawn)
        for row in range(3):
            new = drawn.token[row] >= 0
            found[row][0].extend(drawn.token[row][new].tolist())
            found[row][1].extend(drawn.log_probability[row][new].tolist())
        # What is read is the text's own, with the drafts that it kept: all but its newest token.
        read_B = np.where(complete_B, np.asarray(texts.history.length_B) - 1, read_B + known_B)
        read_B, passes = read_B.astype(np.int32), passes + 1
    return [tokens for tokens, _ in found], [values for _, values in found], passes


def wrong_after(count: int, chain: Chain):
    """Drafts whose first `count` tokens are right."""

    def draft(row: int, text: list[int]) -> list[int]:
        drawn = len(text) - len(prompts()[row])
        future = expected(chain)[row].tokens[drawn:]
        return [token if i < count else (token + 1) % VOCAB for i, token in enumerate(future)]

    return draft


@pytest.mark.parametrize("chain", CHAINS, ids=["links", "memory"])
def test_drafts_right_or_wrong_change_no_text(chain):
    random = np.random.default_rng(2)
    drafts = {
        "none": lambda row, text: [],
        "wrong": wrong_after(0, chain),
        "half right": wrong_after(2, chain),
        "right": wrong_after(99, chain),
        "random": lambda row, text: random.integers(0, VOCAB, random.integers(0, COLUMNS)).tolist(),
    }
    passes = {}
    for name, draft in drafts.items():
        tokens, log_probabilities, passes[name] = write(chain, draft)
        for row, completion in enumerate(expected(chain)):
            assert tokens[row] == completion.tokens, name
            np.testing.assert_allclose(log_probabilities[row], completion.log_probabilities, atol=1e-4)
    longest = max(len(completion.tokens) for completion in expected(chain))
    assert passes["none"] >= longest
    assert passes["right"] <= 3 + -(-longest // (COLUMNS - 1)) < passes["none"]
    assert passes["right"] < passes["half right"] < passes["none"]


def test_some_text_ends_with_a_stop_id_so_that_the_tests_above_see_one():
    assert any(row.finish_reason == "stop" for chain in CHAINS for row in expected(chain))
