"""Links that look at the text: each against its definition in float64, Hugging Face, and a slow decoder."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import bdtrc  # JAX needs SciPy, too

from model import config as c
from model.decode.chain import LINKS, Chain, SamplerError, format_chain, parse_chain, stack_chains
from model.decode.draw import shard_rows
from model.decode.generate import Generator
from model.decode.links.dry import DRY
from model.decode.links.link import History, LinkState
from model.decode.links.ngrams import NoRepeatNGram
from model.decode.links.penalties import FrequencyPenalty, PresencePenalty, RepetitionPenalty
from model.decode.links.watermark import Watermark, binomial_tail, detect_watermark
from model.decode.parameters import parameters
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
SLOTS, ROWS, VOCAB = 24, 4, 6
SETTINGS = settings(deadline=None, max_examples=60)
EVERY_LINK = (
    "repetition_penalty=1.3,presence_penalty=0.4,frequency_penalty=-0.2,no_repeat_ngram=4,"
    "dry(multiplier=0.8,base=1.75,allowed_length=1,breakers=[[3],[9]],range=40),watermark(key=7,gamma=0.3,delta=1.5),"
)


# The definitions


def reference(link, text, prompt, logits_V):
    """One link's definition in float64: every token is tried in turn, against every earlier place of the text."""
    logits = np.array(logits_V, np.float64)
    new = text[prompt:]
    for token in range(len(logits)):
        if isinstance(link, RepetitionPenalty) and token in text:
            logits[token] = logits[token] / link.value if logits[token] > 0 else logits[token] * link.value
        elif isinstance(link, PresencePenalty) and token in new:
            logits[token] -= link.value
        elif isinstance(link, FrequencyPenalty):
            logits[token] -= link.value * new.count(token)
        elif isinstance(link, NoRepeatNGram):
            grams = {tuple(text[start : start + link.n]) for start in range(len(text) - link.n + 1)}
            if (*text[len(text) - link.n + 1 :], token) in grams:
                logits[token] = -np.inf
        elif isinstance(link, DRY):
            length = longest_repetition(text[-link.range :], token, {phrase[-1] for phrase in link.breakers})
            if length >= link.allowed_length:
                logits[token] -= link.multiplier * link.base ** (length - link.allowed_length)
    return logits


def longest_repetition(text, token, breakers):
    """The length of the longest end of a text that stands in it right before the token, too; no breaker in either."""
    lengths = [0]
    for place in range(len(text)):
        for length in range(1, place + 1):
            end = text[len(text) - length :]
            if [*end, token] == text[place - length : place + 1] and not breakers & {*end, token}:
                lengths.append(length)
    return max(lengths)


@jax.jit
def apply(links, history, logits_BV):
    for link in links:
        state = LinkState(history, jnp.full((len(logits_BV), 1), -1))
        _, logits_BV = link(state, logits_BV, jax.random.split(jax.random.key(0), len(logits_BV)))
    return logits_BV


def applied(links, texts, prompts, logits_BV, slots=SLOTS, rest=0):
    """The logits after one link a row, of the same kind, for texts of any length; `rest` fills what is no text."""
    history_BS = np.full((len(texts), slots), rest, np.int32)
    for row, text in enumerate(texts):
        history_BS[row, : len(text)] = text
    history = History(history_BS, np.array([len(text) for text in texts]), np.array(prompts))
    stacked = stack_chains([Chain((link,)) for link in links]).links
    return np.asarray(apply(stacked, history, np.asarray(logits_BV, np.float32)))


texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=SLOTS - 1) | st.lists(
    st.integers(0, 1), min_size=1, max_size=SLOTS - 1
)
breakers = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2).map(tuple), max_size=2).map(tuple)
amounts = st.floats(-3, 3)
KINDS = [
    st.floats(0.3, 4).map(RepetitionPenalty),
    amounts.map(PresencePenalty),
    amounts.map(FrequencyPenalty),
    st.integers(1, 6).map(NoRepeatNGram),
    st.builds(DRY, st.floats(0, 3), st.floats(1, 3), st.integers(1, 4), breakers, st.integers(1, 40)),
]


@pytest.mark.parametrize("kind", KINDS, ids=["repetition", "presence", "frequency", "no_repeat_ngram", "dry"])
def test_each_row_has_the_logits_of_its_own_text_by_the_definition(kind):
    @given(
        st.lists(st.tuples(kind, texts, st.integers(0, SLOTS)), min_size=ROWS, max_size=ROWS),
        st.integers(0, 2**31),
        st.integers(0, VOCAB - 1),
    )
    @SETTINGS
    def check(rows, seed, rest):
        links, texts, prompts = zip(*rows, strict=True)
        prompts = [min(prompt, len(text)) for prompt, text in zip(prompts, texts, strict=True)]
        logits_BV = np.random.default_rng(seed).normal(0, 2, (ROWS, VOCAB)).astype(np.float32)
        logits_BV[0, 0] = -np.inf  # ruled out before: it stays so, and no logit is NaN
        found = applied(links, texts, prompts, logits_BV, rest=rest)
        expected = [reference(*row) for row in zip(links, map(list, texts), prompts, logits_BV, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)

    check()


def test_a_long_repetition_is_penalized_without_overflow_and_rules_nothing_out():
    links = [DRY(100.0, 100.0, 1), DRY(0.0, 100.0, 1), DRY(1.0, 1.5, 1000), DRY(1.0, 1.1, 30)]
    text = [1, 2] * 100
    found = applied(links, [text] * 4, [0] * 4, np.zeros((4, 5)), slots=256)
    assert np.isfinite(found / 1e-6).all() and found[0, 1] < -1e20  # behind the lowest temperature, too
    assert (found[1:3] == 0).all(), "no multiplier, and no repetition as long as allowed"
    np.testing.assert_allclose(found[3, 1], -(1.1**50), rtol=1e-5)  # as long as counts


@pytest.mark.parametrize(
    "name, values",
    [("RepetitionPenaltyLogitsProcessor", (0.5, 1.0, 1.7)), ("NoRepeatNGramLogitsProcessor", (1, 2, 3, 30))],
)
def test_links_do_what_hugging_face_does(name, values):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    random = np.random.default_rng(5)
    kind = {"R": RepetitionPenalty, "N": NoRepeatNGram}[name[0]]
    texts = [random.integers(0, 4, length).tolist() for length in (1, 2, 9, 60) for _ in values]
    links = [kind(value) for _ in range(4) for value in values]
    logits_BV = random.normal(0, 3, (len(texts), 50)).astype(np.float32)
    expected = [
        getattr(transformers, name)(value)(torch.tensor([text]), torch.tensor(row[None]))[0].numpy()
        for value, text, row in zip(values * 4, texts, logits_BV, strict=True)
    ]
    found = applied(links, texts, [0] * len(texts), logits_BV, slots=64)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_links_of_equal_parameters_are_different_programs():
    kinds = [kind for kind in LINKS.values() if list(parameters(kind)) == ["value"]]
    assert len({jax.tree.structure(kind(1.0)) for kind in kinds}) == len(kinds) > 3
    assert all(jax.tree.structure(a(1.0)) != jax.tree.structure(b(1.0)) for a, b in itertools.combinations(kinds, 2))


# Text

CONTEXT = 16


def model() -> Transformer:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    config = c.Model(32, 16, CONTEXT, (c.Stack((block,), 1),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


@pytest.fixture(scope="module")
def writer() -> Generator:
    return Generator(model(), vocab_size=29, context=CONTEXT)


def prompt(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 29, length).tolist()


CHAINS = [parse_chain(EVERY_LINK.replace("key=7", f"key={key}") + "greedy") for key in (7, 2**40, 9)]
PROMPTS = [prompt(length) for length in (3, 9, 15)]


@pytest.fixture(scope="module")
def together(writer) -> list[list[int]]:
    """What one batch writes of three rows: texts four times as long as what the model sees."""
    return [row.tokens for row in writer.generate(PROMPTS, chain=CHAINS, max_new_tokens=49)]


def test_a_text_in_a_batch_is_the_text_alone(writer, together):
    for one, chain, tokens in zip(PROMPTS, CHAINS, together, strict=True):
        (alone,) = writer.generate([one], chain=chain, max_new_tokens=49)
        assert alone.tokens == tokens and len(tokens) == 49


def test_links_see_the_tokens_that_the_model_no_longer_sees(together):
    """Against a slow decoder that applies the definitions to the whole text, and the model to what it still sees."""
    read, whole = jax.jit(lambda model, x: model.logits(model.hidden(x))), model()
    text, first = list(PROMPTS[0]), 0
    for token in together[0]:
        if len(text) - first == CONTEXT:
            first = len(text) - CONTEXT // 2
        tokens = np.zeros((1, CONTEXT), np.int32)
        tokens[0, : len(text) - first] = text[first:]
        logits_V = np.asarray(read(whole, tokens))[0, len(text) - first - 1, :29]
        for link in CHAINS[0].links[:-1]:
            logits_V = reference(link, text, len(PROMPTS[0]), logits_V)
        assert token == np.argmax(logits_V + 1.5 * is_green(7, text[-1], 29, 0.3))
        text.append(token)


def test_rows_on_the_devices_of_a_mesh_have_the_logits_of_one_device_and_stay_where_they_are():
    random = np.random.default_rng(0)
    links = stack_chains(CHAINS + CHAINS[:1]).links
    history = History(random.integers(0, 5, (4, 64)), np.array([64, 1, 30, 50]), np.array([9, 1, 30, 2]))
    logits_BV = random.normal(0, 2, (4, 29)).astype(np.float32)
    sharded = jax.jit(lambda *arguments: apply(*shard_rows(arguments)))
    with jax.set_mesh(make_mesh({"data": 2}, jax.devices()[:2])):
        program = sharded.lower(links, history, logits_BV).compile()
        found = program(links, history, logits_BV)
    np.testing.assert_allclose(found, apply(links, history, logits_BV), rtol=1e-6)
    assert not re.search("all-gather|all-to-all|collective-permute", program.as_text())


def test_a_text_ends_where_every_token_is_ruled_out_and_says_by_which_link(writer):
    chain = parse_chain(EVERY_LINK.replace("ngram=4", "ngram=1") + "greedy")
    (row,) = writer.generate([[0, 1, 2]], chain=chain, max_new_tokens=49)
    assert sorted([0, 1, 2, *row.tokens]) == list(range(29))
    assert row.finish_reason == "emptied" and row.emptied_by == "no_repeat_ngram=1"


# The watermark


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 of 20 rounds, from the description of Salmon et al. 2011."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
    a, b = (counter[0] + keys[0]) % 2**32, (counter[1] + keys[1]) % 2**32
    for group in range(5):
        for rotation in rotations[group % 2]:
            a = (a + b) % 2**32
            b = ((b << rotation | b >> (32 - rotation)) % 2**32) ^ a
        a = (a + keys[(group + 1) % 3]) % 2**32
        b = (b + keys[(group + 2) % 3] + group + 1) % 2**32
    return a, b


@functools.cache
def is_green(key: int, last: int, vocab: int, gamma: float) -> np.ndarray:
    words = threefry(divmod(key, 2**32), (0, last))
    return np.array([threefry(words, (0, token))[0] / 2**32 < gamma for token in range(vocab)])


def watermarked_texts(rows: int, length: int, vocab: int, link: Watermark) -> np.ndarray:
    """Texts of a model to which all tokens are equally likely: int [rows, length]."""
    stacked = stack_chains([Chain((link,))] * rows).links[0]

    def write(history, key):
        green_BV = stacked.filter(LinkState(history, None), jnp.zeros((rows, vocab)), None)
        token_B = jax.random.categorical(key, green_BV)
        tokens_BS = jnp.where(jnp.arange(length) == history.length_B[:, None], token_B[:, None], history.tokens_BS)
        return history._replace(tokens_BS=tokens_BS, length_B=history.length_B + 1), None

    first = jnp.zeros((rows, length), jnp.int32).at[:, 0].set(jnp.arange(rows) % vocab)
    history = History(first, jnp.ones(rows, jnp.int32), jnp.ones(rows, jnp.int32))
    return np.asarray(
        jax.jit(lambda: jax.lax.scan(write, history, jax.random.split(jax.random.key(1), length - 1)))()[0][0]
    )


def random_texts(rows: int, length: int, vocab: int) -> list[list[int]]:
    return np.random.default_rng(3).integers(0, vocab, (rows, length)).tolist()


@pytest.mark.parametrize("key, gamma", [(0, 0.25), (2**40 + 5, 0.5), (2**64 - 1, 0.1)])
def test_the_watermark_raises_the_tokens_that_its_published_hash_calls_green(key, gamma):
    links = [Watermark(key, gamma, delta) for delta in (0.0, 2.0, 5.0)]
    found = applied(links, [[3, 1], [2], [2, 3, 8]], [1] * 3, np.zeros((3, 12)), rest=5)
    for row, (last, delta) in enumerate([(1, 0), (2, 2), (8, 5)]):
        np.testing.assert_array_equal(found[row], delta * is_green(key, last, 12, gamma))


@pytest.mark.parametrize("gamma", [0.1, 0.25, 0.5])
def test_a_share_gamma_of_the_tokens_is_green_whatever_the_last_one(gamma):
    vocab = 20_000
    found = applied([Watermark(11, gamma, 1.0)] * 64, [[last] for last in range(64)], [1] * 64, np.zeros((64, vocab)))
    deviation = math.sqrt(gamma * (1 - gamma) / vocab)
    z_scores = (found.mean(1) - gamma) / deviation
    assert np.abs(z_scores).max() < 4.5 and 0.6 < z_scores.std() < 1.4
    correlation = np.corrcoef(found)[~np.eye(64, dtype=bool)]
    assert np.abs(correlation).max() < 5.5 / math.sqrt(vocab), "the lists of two tokens are independent"


def test_the_detector_finds_the_watermark_with_its_key_and_with_no_other():
    texts = watermarked_texts(20, 201, 500, Watermark(99, 0.25, 2.0)).tolist()
    green = 0.25 * math.exp(2) / (0.25 * math.exp(2) + 0.75)  # a green token's probability where all logits are equal
    expected = (green - 0.25) * math.sqrt(200 / (0.25 * 0.75))
    found = [detect_watermark(text, 99, 0.25) for text in texts]
    assert min(one.z_score for one in found) > 8 and max(one.p_value for one in found) < 1e-12
    assert abs(np.mean([one.z_score for one in found]) - expected) < 4 / math.sqrt(20)
    z_scores = [detect_watermark(text, key, 0.25).z_score for text in texts for key in (0, 98, 100, 99 + 2**32)]
    assert abs(np.mean(z_scores)) < 4 / math.sqrt(80) and max(z_scores) < 4.5


def test_z_scores_of_other_texts_are_standard_normal_and_false_alarms_as_rare_as_p_says():
    found = [detect_watermark(text, 5, 0.25) for text in random_texts(1000, 150, 300)]
    z_scores = np.array([one.z_score for one in found])
    assert abs(z_scores.mean()) < 4 / math.sqrt(1000)
    assert abs(z_scores.var() - 1) < 4 * math.sqrt(2 / 1000)
    for p in (0.3, 0.05, 0.01):
        alarms = sum(one.p_value <= p for one in found)
        assert alarms <= 1000 * p + 4 * math.sqrt(1000 * p * (1 - p))
    assert sum(one.p_value <= 0.3 for one in found) > 200


def test_a_pair_that_comes_again_is_no_new_evidence():
    once = detect_watermark([1, 2, 1], 5)
    assert once.tokens == 2
    assert detect_watermark([1, 2] * 300, 5) == once


@given(st.integers(1, 400), st.integers(0, 400), st.sampled_from([0.01, 0.25, 0.5, 0.99]))
@settings(deadline=None, max_examples=50)
def test_p_values_are_those_of_the_binomial_distribution(count, green, gamma):
    green = min(green, count)
    expected = bdtrc(green - 1, count, gamma) if green else 1.0
    assert math.isclose(binomial_tail(green, count, gamma), expected, rel_tol=1e-9, abs_tol=1e-300)


def test_the_watermark_is_as_strong_as_hugging_faces():
    """Its hash is another, so the shares of green tokens are compared, where all logits are equal."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    processor = transformers.WatermarkLogitsProcessor(500, "cpu", greenlist_ratio=0.25, bias=2.0, hashing_key=99)
    torch.manual_seed(0)
    tokens, green = torch.arange(5)[:, None], []
    for _ in range(100):
        logits = processor(tokens, torch.zeros(5, 500))
        tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1)], 1)
        green.append(logits.gather(1, tokens[:, -1:]) > 0)
    theirs = torch.cat(green).float().mean().item()
    texts = watermarked_texts(5, 101, 500, Watermark(99, 0.25, 2.0)).tolist()
    ours = np.mean([detect_watermark(text, 99).green_fraction for text in texts])
    assert abs(theirs - ours) < 4 * math.sqrt(2 * 0.71 * 0.29 / 500)


# The door


@pytest.mark.parametrize(
    "given, canonical",
    [
        ("repetition_penalty=1.10", "repetition_penalty=1.1"),
        ("presence_penalty=-0.5,frequency_penalty=0.5", "presence_penalty=-0.5,frequency_penalty=0.5"),
        ("no_repeat_ngram=3", "no_repeat_ngram=3"),
        ("dry=0.8", "dry=0.8"),
        (
            r'dry(multiplier=0.8,base=1.75,allowed_length=2,breakers=["\n",":","\"","*"])',
            r'dry(multiplier=0.8,breakers=["\n", ":", "\"", "*"])',
        ),
        ("watermark(key=12,gamma=0.25,delta=2)", "watermark=12"),
        ("watermark(delta=3,key=18446744073709551615)", "watermark(key=18446744073709551615,delta=3)"),
    ],
)
def test_links_are_read_and_written(given, canonical):
    assert format_chain(parse_chain(given)) == canonical
    assert parse_chain(canonical) == parse_chain(given)


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("repetition_penalty=0", ["repetition_penalty is 0", "from 0.01"]),
        ("presence_penalty=much", ["presence_penalty is much", "presence_penalty=0.5"]),
        ("frequency_penalty=101", ["frequency_penalty is 101", "frequency_penalty=0.5"]),
        ("no_repeat_ngram=0", ["no_repeat_ngram is 0", "whole number of tokens from 1"]),
        ("no_repeat_ngram=2.5", ["no_repeat_ngram is 2.5"]),
        ("dry", ["multiplier of dry is nothing", "dry=0.8"]),
        ("dry(multiplier=1,base=0.5)", ["base of dry is 0.5", "from 1 to 100"]),
        ("dry(multiplier=1,breakers=[])", ["breakers of dry is []", "a list of texts"]),
        ("watermark", ["key of watermark is nothing", "as key="]),
        ("watermark(key=-1)", ["key of watermark is -1", "2^64 - 1"]),
        ("watermark(key=18446744073709551616)", ["key of watermark is 18446744073709551616"]),
        ("watermark(key=1,gamma=1)", ["gamma of watermark is 1", "0.01 to 0.99"]),
    ],
)
def test_a_link_that_can_not_be_read_says_why_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    said = str(error.value)
    assert "\n" not in said and all(part in said for part in parts), said


@pytest.mark.parametrize("ids", [[], [4]])
def test_a_text_without_a_pair_of_tokens_shows_no_watermark(ids):
    with pytest.raises(ValueError, match="no pair of tokens"):
        detect_watermark(ids, 5)
