"""Invariant mode: one tile for every forward pass, and the same bits wherever a token stands in it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model.cache import PageLayout
from model.decode.advance import read
from model.decode.chain import LINKS, Chain, stack_chains
from model.decode.completion import Completion
from model.decode.draw import Requests, apply_links, start
from model.decode.engine import Engine, Request
from model.decode.invariance import TableSize, Tile, choose_tile
from model.decode.links.constraint import Grammar, Json, pack
from model.decode.links.link import History
from model.decode.parameters import Biases, Key, Phrases, parameters
from model.decode.speculation import DraftModel, PromptLookup
from model.decode.strategies import Greedy, Sample, row_keys
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(300)
VOCAB, CONTEXT = 29, 64
LAYOUT, TABLE = PageLayout(33, 8), TableSize(8, 8)
DRAFT_SIZES = {"context": CONTEXT, "slots": 12, "page_size": 8}
BLOCKS = {
    "attention": c.Block(c.Attention(4, 2, 8, rope=c.Rope()), c.MLP(32, gated=True)),
    "lstm": c.Block(c.LSTM(), None, placement="plain"),
}


@functools.cache
def model(name: str, dtype: str = "float32") -> Transformer:
    config = c.Model(VOCAB, 32, CONTEXT, (c.Stack((BLOCKS[name],), 2),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0), c.Execution(dtype=dtype)))()


def program(network: Transformer):
    jitted = jax.jit(read, donate_argnums=1)
    return lambda memory, tokens: jitted(network, memory, tokens)


def memory(network, rows: int = 8):
    return jax.jit(lambda: network.init_pages(rows + 1, LAYOUT))()


@pytest.mark.parametrize("name", BLOCKS)
def test_the_largest_tile_is_taken_whose_every_place_gives_the_same_bits(name):
    network = model(name)
    tile, after = choose_tile(program(network), memory(network), LAYOUT, TABLE, VOCAB)
    assert tile in [(8, 8), (4, 4), (8, 1), (1, 8), (1, 1)]
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, memory(network))


def test_a_place_that_rounds_in_another_way_is_found():
    """One unit in the last place, at one row and column of one of the tiles."""
    network, honest = model("attention"), program(model("attention"))

    def other_bits(memory, tokens):
        logits_BTV, memory = honest(memory, tokens)
        if tokens.tokens_BT.shape == (4, 4):
            last = logits_BTV[3, 2, 5]
            logits_BTV = logits_BTV.at[3, 2, 5].set(np.nextafter(np.float32(last), np.float32(9)))
        return logits_BTV, memory

    tiles = (Tile(4, 4), Tile(2, 2), Tile(1, 1))
    assert choose_tile(honest, memory(network), LAYOUT, TABLE, VOCAB, tiles)[0] == (4, 4)
    assert choose_tile(other_bits, memory(network), LAYOUT, TABLE, VOCAB, tiles)[0] == (2, 2)


# Requests


def value(kind, default, random: np.random.Generator):
    """A random value that a parameter takes: near its default if it has one, else in the middle of its range."""
    if isinstance(kind, Phrases | Biases):
        phrases = tuple(tuple(random.integers(0, VOCAB, random.integers(1, 3)).tolist()) for _ in range(2))
        return phrases if isinstance(kind, Phrases) else tuple((phrase, random.uniform(-3, 3)) for phrase in phrases)
    if isinstance(kind, Key):
        return int(random.integers(2**63))
    low, high = max(kind.least, kind.above, 0.3), min(kind.most, 3.0)
    if kind.whole:
        return int(random.integers(max(kind.least, 1), min(kind.most, 12) + 1))
    number = random.uniform(low, high) if low < high else random.uniform(0.3, 1) * kind.most
    return number if default is dataclasses.MISSING else random.choice([default, kind.read(number)])


class OneInThreeIsMissing:
    """A matcher of the text's length and newest token, for any grammar."""

    finished = False

    def __init__(self, grammar, prompt, stop_ids):
        self.state = len(prompt)

    def mask(self):
        return pack(np.arange(VOCAB) % 3 != self.state % 3)

    def accept(self, token):
        self.state += 1 + token


def link(kind: type, random: np.random.Generator):
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return kind(**{name: value(p, defaults[name], random) for name, p in parameters(kind).items()})


def requests(count: int, samplers: int) -> list[Request]:
    """Random requests with so many kinds of chains, of all links that there are, one grammar for all: some prompts
    repeat themselves, some begin alike, some texts outgrow the context, some end with a stop id."""
    random = np.random.default_rng(11)
    links = [kind for kind in LINKS.values() if not issubclass(kind, Grammar)]
    every = [[*links, Json][i % (len(links) + 1)] for i in range(samplers)]
    kinds = [[first, *random.choice(links, random.integers(0, 3))] for first in every]
    beginnings, made = random.integers(0, VOCAB, (3, 24)).tolist(), []
    for index in range(count):
        prompt = random.integers(0, VOCAB, random.integers(1, 12)).tolist() * int(random.integers(1, 3))
        prompt = beginnings[random.integers(3)] + prompt if random.random() < 0.5 else prompt
        strategy = Greedy() if index % samplers == 1 else Sample()
        chain = Chain(tuple(link(kind, random) for kind in kinds[index % samplers]), strategy)
        new, seed, sample = int(random.integers(1, 40)), int(random.integers(2**63)), int(random.integers(3))
        made.append(Request(prompt, chain, new, seed, sample, [3]))
    return made


def engine(network, shares=False, piece=None, **options) -> Engine:
    """All engines have the same memory, and so the same programs."""
    sizes = {"context": CONTEXT, "slots": 12, "page_size": 8, "pages": 64}
    made = Engine(network, vocab_size=VOCAB, matcher_maker=OneInThreeIsMissing, **sizes, **options)
    made.scheduler.shares = shares
    if piece:
        made.decoding.piece = piece
    return made


def written(engine: Engine, given: list[Request], together: bool = True) -> list[Completion]:
    """The texts of requests, in their order."""
    if not together:
        return [text for request in given for text in written(engine, [request])]
    texts = [Completion() for _ in given]
    for index, piece in engine.run(given):
        texts[index].extend(piece)
    return texts


def fingerprint(text: Completion) -> tuple:
    """All that is random of a text, bit for bit."""
    columns = (text.log_probabilities, text.chain_log_probabilities, text.choice_log_probabilities, text.truncated)
    return text.tokens, text.finish_reason, text.emptied_by, *(np.array(x, np.float32).tobytes() for x in columns)


def ways(network, given: list[Request], **options) -> dict[str, list[Completion]]:
    """The texts of the same requests, computed in other company and in other pieces."""
    backwards = written(engine(network, **options), given[::-1])[::-1]
    shared = engine(network, shares=True, **options)
    found = {
        "batched": written(engine(network, **options), given),
        "backwards": backwards,
        "prefix-cached": written(shared, given),
        "speculated": written(engine(network, draft=PromptLookup(shortest=1), **options), given),
    }
    assert shared.tokens_found > 0
    assert sum(text.accepted for text in found["speculated"]) > 0
    return found


def unequal(first: list[Completion], second: list[Completion]) -> int:
    return sum(fingerprint(a) != fingerprint(b) for a, b in zip(first, second, strict=True))


def prove_invariance(count: int, samplers: int, drafter=None) -> None:
    network, given = model("attention"), requests(count, samplers)
    alone = written(engine(network, invariant=True), given, together=False)
    assert {text.finish_reason for text in alone} >= {"length", "stop"}
    found = ways(network, given, invariant=True)
    found["in pieces of 3"] = written(engine(network, invariant=True, piece=3), given)
    if drafter:
        found["speculated by a model"] = written(engine(network, invariant=True, draft=drafter), given)
    for name, texts in found.items():
        print(f"{name}: {count - unequal(alone, texts)} of {count} equal bitwise")
    assert {name: unequal(alone, texts) for name, texts in found.items()} == dict.fromkeys(found, 0)


def test_in_invariant_mode_no_bit_of_a_text_depends_on_how_it_is_computed():
    prove_invariance(count=30, samplers=2)


@pytest.mark.slow(300)
@pytest.mark.timeout(3600)
def test_in_invariant_mode_no_bit_of_a_thousand_texts_depends_on_how_they_are_computed():
    drafter = DraftModel(model("attention"), vocab_size=VOCAB, **DRAFT_SIZES)
    prove_invariance(count=1000, samplers=24, drafter=drafter)


# Fast mode


def noisy_logits(network, request: Request, ids: list[int], position: int) -> np.ndarray:
    """What the token at a position is the greatest of: logits after the chain, with noise [V]. From the text read
    whole."""
    tokens_BS, rows = np.zeros((1, CONTEXT), np.int32), stack_chains([request.chain])
    tokens_BS[0, : len(ids)] = ids
    logits_BSV = network.logits(network.hidden(jnp.asarray(tokens_BS)))
    zero_B, first = np.zeros(1, np.int32), len(request.prompt)
    seed_BW = np.array([divmod(request.seed, 2**32)], np.uint32)
    stop_BE = np.array([request.stop_ids], np.int32)
    given = Requests(seed_BW, zero_B + request.sample, zero_B + CONTEXT, zero_B + CONTEXT, stop_BE, rows)
    texts = start(History(tokens_BS, zero_B + first, zero_B + first), rows, zero_B > 0, VOCAB)
    for length in range(first, position + 1):
        texts = texts._replace(history=texts.history._replace(length_B=zero_B + length))
        key_B = row_keys(seed_BW, given.sample_B, texts.history.length_B)
        memories, last_BV, _ = apply_links(texts, given, logits_BSV[:, length - 1].astype(jnp.float32), key_B)
        texts = texts._replace(memories=(*memories, texts.memories[-1]))
    is_sampled = isinstance(request.chain.strategy, Sample)
    noise_V = jax.random.gumbel(key_B[0], (VOCAB,)) if is_sampled else 0
    return np.asarray(last_BV[0] + noise_V)


def first_differences(network, given, expected, found) -> list[float]:
    """The margin at each first token at which texts of the first window differ."""
    margins = []
    for request, one, other in zip(given, expected, found, strict=True):
        equal = [a == b for a, b in zip(one.tokens, other.tokens, strict=False)]
        index = equal.index(False) if False in equal else min(len(one.tokens), len(other.tokens))
        position = len(request.prompt) + index
        if one.tokens != other.tokens and position < CONTEXT:
            ids = request.prompt + max(one.tokens, other.tokens, key=len)
            second, best = np.sort(noisy_logits(network, request, ids[: position + 1], position))[-2:]
            margins.append(float(best - second))
    return margins


def count_differences(count: int, samplers: int, dtype: str) -> dict[str, list[float]]:
    network, given = model("attention", dtype), requests(count, samplers)
    alone, margins = written(engine(network), given, together=False), {}
    for name, texts in ways(network, given).items():
        margins[name] = first_differences(network, given, alone, texts)
        bits = unequal(alone, texts)
        ahead = f", margins {min(margins[name]):.1e} to {max(margins[name]):.1e}" if margins[name] else ""
        print(f"{dtype}, {name}: of {count} texts {bits} differ in a bit, {len(margins[name])} in a token{ahead}")
        tokens = sum(a.tokens != b.tokens for a, b in zip(alone, texts, strict=True))
        assert tokens <= bits
    return margins


@pytest.mark.slow(20)
def test_the_noisy_logits_that_margins_come_from_are_those_that_tokens_are_drawn_from():
    network, given = model("attention"), requests(12, 2)
    for request, text in zip(given, written(engine(network), given), strict=True):
        ids = request.prompt + text.tokens
        for position in range(len(request.prompt), min(len(ids), CONTEXT), 5):
            assert noisy_logits(network, request, ids[: position + 1], position).argmax() == ids[position]


@pytest.mark.slow(200)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-4), ("bfloat16", 0.3)])
def test_in_fast_mode_texts_differ_only_where_two_tokens_were_equal_but_for_rounding(dtype, rounding):
    margins = count_differences(count=200, samplers=2, dtype=dtype)
    assert all(ahead < rounding for found in margins.values() for ahead in found)
