"""The decoder: distributions by enumeration, draws that no neighbour changes, programs counted, errors of one line."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode import generate
from model.decode.chain import Chain, SamplerError, chain_to_json, format_chain, parse_chain, stack_chains
from model.decode.generate import Generator
from model.decode.links.link import History, LinkState
from model.decode.links.truncation import Temperature, TopK, TopP
from model.decode.prompts import PromptError, PromptTooLong
from model.decode.sources import branch_caches
from model.decode.strategies import Greedy, Sample, row_keys
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, PADDED, CONTEXT = 29, 32, 128
NUCLEUS = parse_chain("temperature=0.9,top_k=20,top_p=0.95")
GREEDY = parse_chain("greedy")
LINKS = st.lists(
    st.one_of(
        st.floats(0.1, 5).map(Temperature), st.integers(1, 12).map(TopK), st.floats(0.01, 1).map(TopP)
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def config() -> c.Model:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    return c.Model(PADDED, 16, CONTEXT, (c.Stack((block,), 2),), init=c.Init(embedding=0.7, residual=0.3))


def model() -> Transformer:
    return jax.jit(lambda: Transformer(config(), jax.random.key(0)))()


@pytest.fixture(scope="module")
def writer() -> Generator:
    return Generator(model(), vocab_size=VOCAB, context=CONTEXT)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def applied(links, logits_BV):
    """The chain's last logits, out of the links alone."""
    logits_BV, rows = jnp.asarray(logits_BV, jnp.float32), len(logits_BV)
    zeros = jnp.zeros(rows, jnp.int32)
    history = History(jnp.zeros((rows, 1), jnp.int32), zeros, zeros)
    for link in stack_chains([Chain(tuple(links))] * rows).links:
        state = LinkState(history, jnp.full((rows, 1), -1), link.start(history, logits_BV.shape[1]))
        _, logits_BV = link(state, logits_BV, jax.random.split(jax.random.key(0), rows))
    return np.asarray(logits_BV)


def softmax64(logits_V):
    exponents = np.exp(np.asarray(logits_V, np.float64) - np.max(logits_V))
    return exponents / exponents.sum()


# What the links keep


def reference(links, logits_V):
    """Each link's definition in float64, over a vocabulary small enough to enumerate."""
    logits = np.array(logits_V, np.float64)
    for link in links:
        likeliest_first = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
        if isinstance(link, Temperature):
            logits = logits / link.value
        elif isinstance(link, TopK):
            logits[likeliest_first[link.k :]] = -np.inf
        else:
            before, probabilities = 0.0, softmax64(logits)
            for token in likeliest_first:
                if before >= link.p:
                    logits[token] = -np.inf
                before += probabilities[token]
    return logits


@given(LINKS, st.integers(5, 8), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_a_chain_leaves_the_distribution_of_its_definitions_in_their_order(links, size, seed):
    logits_BV = np.random.default_rng(seed).normal(0, 2, (2, size)).astype(np.float32)
    for found, logits_V in zip(applied(links, logits_BV), logits_BV, strict=True):
        np.testing.assert_allclose(softmax64(found), softmax64(reference(links, logits_V)), atol=2e-6)


@given(st.lists(st.integers(-2, 2), min_size=5, max_size=8), st.floats(0.001, 1), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_of_equal_tokens_the_lowest_ids_stay(levels, p, k):
    likeliest_first = sorted(range(len(levels)), key=lambda token: (-levels[token], token))
    kept = np.flatnonzero(np.isfinite(applied([TopK(k)], [levels])[0]))
    assert set(kept) == set(likeliest_first[:k])
    kept = np.flatnonzero(np.isfinite(applied([TopP(p)], [levels])[0]))
    probabilities = softmax64(levels)
    assert set(kept) == set(likeliest_first[: len(kept)])
    assert probabilities[kept].sum() >= p - 1e-6  # enough, and no smaller set is
    assert probabilities[likeliest_first[: len(kept) - 1]].sum() < p + 1e-6


def test_one_token_stays_however_small_p_is():
    assert np.isfinite(applied([TopP(1e-300)], [[0.0, 3.0, 1.0]])).tolist() == [[False, True, False]]
    assert np.isfinite(applied([TopP(1e-9)], [np.zeros(7)])).sum() == 1


def test_the_order_of_a_chain_is_the_users():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    hot, nucleus = Temperature(3.0), TopP(0.75)
    assert np.isfinite(applied([nucleus, hot], logits)).sum() == 2
    assert np.isfinite(applied([hot, nucleus], logits)).sum() == 3


@pytest.mark.parametrize(
    "name, value, link",
    [
        ("TemperatureLogitsWarper", 0.7, Temperature(0.7)),
        ("TopKLogitsWarper", 11, TopK(11)),
        ("TopPLogitsWarper", 0.85, TopP(0.85)),
        ("TopPLogitsWarper", 0.05, TopP(0.05)),
    ],
)
def test_links_do_what_hugging_face_does(name, value, link):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    logits_BV = np.random.default_rng(5).normal(0, 3, (16, 500)).astype(np.float32)
    expected = getattr(transformers, name)(value)(None, torch.tensor(logits_BV)).numpy()
    np.testing.assert_allclose(applied([link], logits_BV), expected, rtol=1e-6)


# Draws


@pytest.mark.parametrize("sampler", ["", "temperature=0.6", "top_k=4", "temperature=1.5,top_p=0.8"])
def test_draws_follow_the_distribution(sampler):
    logits_V, draws = np.array([0.3, -1.0, 2.0, 1.9, 0.0, -3.0, 1.0]), 20_000
    logits_BV = applied(parse_chain(sampler).links, np.tile(logits_V, (draws, 1)))
    key_B = row_keys(jnp.tile(jnp.array([0, 7], jnp.uint32), (draws, 1)), jnp.arange(draws), jnp.zeros(draws, int))
    counts = np.bincount(
        jax.jit(lambda x, key_B: Sample()(x, None, key_B).token_B)(logits_BV, key_B), minlength=len(logits_V)
    )
    expected = draws * softmax64(logits_BV[0])
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 22.5  # 6 degrees of freedom or fewer: once in a thousand seeds


def test_keys_differ_wherever_seed_sample_or_position_does():
    seeds = jnp.array([[0, 1], [1, 0], [0, 2], [0, 1], [0, 1], [0, 1]], jnp.uint32)
    keys = row_keys(seeds, jnp.array([0, 0, 0, 1, 0, 1]), jnp.array([0, 0, 0, 0, 1, 1]))
    assert len({tuple(words) for words in np.asarray(jax.random.key_data(keys)).tolist()}) == 6


def test_the_likeliest_token_of_equals_is_the_lowest():
    assert Greedy()(jnp.array([[1.0, 5.0, 5.0]]), None, None).token_B.tolist() == [1]


# Text


def test_text_and_its_probabilities_are_those_of_the_model_read_without_a_cache(writer):
    """A slow decoder written here: the whole text is read again for every token."""
    whole, chain = model(), parse_chain("temperature=0.8,top_k=9")
    (row,) = writer.generate([prompt(5)], chain=chain, max_new_tokens=12, seed=2**40 + 3)
    read = jax.jit(lambda model, x: model.logits(model.hidden(x)))
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, :5] = prompt(5)
    for index, token in enumerate(row.tokens):
        logits_V = np.asarray(read(whole, tokens))[0, 5 + index - 1, :VOCAB]
        last_V = reference(chain.links, logits_V)
        assert abs(row.log_probabilities[index] - np.log(softmax64(logits_V)[token])) < 1e-4
        assert abs(row.chain_log_probabilities[index] - np.log(softmax64(last_V)[token])) < 1e-4
        key = jax.random.wrap_key_data(jnp.array([2**8, 3], jnp.uint32))
        key = jax.random.fold_in(jax.random.fold_in(key, 0), 5 + index)
        noise_V = np.asarray(jax.random.gumbel(key, (PADDED,)))[:VOCAB]
        assert token == np.argmax(last_V + noise_V)
        tokens[0, 5 + index] = token


@pytest.mark.parametrize("chain", [NUCLEUS, GREEDY], ids=["nucleus", "greedy"])
def test_a_rows_text_does_not_depend_on_its_neighbours(writer, chain):
    prompts = [prompt(length, seed=length) for length in (7, 1, 40, 16)]
    together = writer.generate(prompts, chain=chain, max_new_tokens=20, seed=5, samples=2)
    for index, one in enumerate(prompts):
        alone = writer.generate([one], chain=chain, max_new_tokens=20, seed=5, samples=2)
        for a, b in zip(alone, together[2 * index : 2 * index + 2], strict=True):
            assert a.tokens == b.tokens
            np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_size_of_a_dispatch_changes_no_text(writer, chunk):
    small = Generator(model(), vocab_size=VOCAB, context=CONTEXT, chunk=chunk)
    request = {"chain": NUCLEUS, "max_new_tokens": 18, "seed": 1}
    pieces = list(small.stream([prompt(3)], **request))
    sizes = [chunk] * (17 // chunk) + [17 % chunk] * (17 % chunk > 0)  # behind the first one, which comes alone
    assert [len(piece.tokens) for (piece,) in pieces] == [1, *sizes]
    assert [token for (piece,) in pieces for token in piece.tokens] == writer.generate([prompt(3)], **request)[0].tokens


def test_the_same_seed_writes_the_same_and_another_seed_or_sample_does_not(writer):
    def texts(**given):
        request = {"chain": parse_chain(""), "max_new_tokens": 20, **given}
        return [row.tokens for row in writer.generate([prompt(4)], **request)]

    one, two = texts(seed=1, samples=2)
    assert one != two
    assert texts(seed=1) == [one]
    assert texts(seed=2) != [one]
    assert texts(seed=1 + 2**32) != [one]
    both = writer.generate([prompt(4)] * 2, chain=parse_chain(""), max_new_tokens=20, seed=[2, 1])
    assert [row.tokens for row in both] == [*texts(seed=2), one]


def test_padding_of_the_vocabulary_is_never_drawn():
    uniform = jax.tree.map(jnp.zeros_like, model())
    rows = Generator(uniform, vocab_size=3, context=CONTEXT).generate(
        [[0]], chain=parse_chain(""), max_new_tokens=100, samples=4
    )
    assert {token for row in rows for token in row.tokens} == {0, 1, 2}
    np.testing.assert_allclose(rows[0].log_probabilities, -np.log(3), atol=1e-5)


def test_a_stop_id_ends_its_row_alone_and_is_no_part_of_it(writer):
    prompts = [prompt(6, seed=seed) for seed in range(4)]
    request = {"chain": NUCLEUS, "max_new_tokens": 24, "seed": 9}
    free = writer.generate(prompts, **request)
    stop = free[1].tokens[3]
    for row, before in zip(writer.generate(prompts, **request, stop_ids=[30, stop]), free, strict=True):
        ended = stop in before.tokens
        assert row.tokens == (before.tokens[: before.tokens.index(stop)] if ended else before.tokens)
        assert row.finish_reason == ("stop" if ended else "length")
        assert len(row.log_probabilities) == len(row.chain_log_probabilities) == len(row.tokens)


def test_decoding_ends_with_the_last_row(writer):
    stops = list(range(VOCAB))
    pieces = list(writer.stream([prompt(6)], chain=NUCLEUS, max_new_tokens=100, stop_ids=stops))
    assert len(pieces) == 1 and pieces[0][0].tokens == [] and pieces[0][0].finish_reason == "stop"


def test_a_text_may_fill_the_context_to_its_last_token(writer):
    for length in (1, CONTEXT - 1, CONTEXT - 40):
        (row,) = writer.generate([prompt(length)], chain=GREEDY, max_new_tokens=CONTEXT - length)
        assert len(row.tokens) == CONTEXT - length and row.finish_reason == "length"


def test_a_text_that_outgrows_the_context_goes_on_from_its_newest_half(writer):
    """Against a slow decoder that reads, for every token, what is left of the text after each cut."""
    short, chain, context = Generator(model(), vocab_size=VOCAB, context=16), parse_chain("top_k=9"), 16
    whole = model()
    prompts = [prompt(15), prompt(3), prompt(9)]
    rows = short.generate(prompts, chain=chain, max_new_tokens=30, seed=4)
    whole, read = model(), jax.jit(lambda model, x: model.logits(model.hidden(x)))
    for start, row in zip(prompts, rows, strict=True):
        assert len(row.tokens) == 30 and row.finish_reason == "length"
        text, first = list(start), 0
        for token in row.tokens:
            if len(text) - first == context:
                first = len(text) - context // 2
            tokens = np.zeros((1, context), np.int32)
            tokens[0, : len(text) - first] = text[first:]
            logits_V = reference(chain.links, np.asarray(read(whole, tokens))[0, len(text) - first - 1, :VOCAB])
            key = jax.random.wrap_key_data(jnp.array([0, 4], jnp.uint32))
            key = jax.random.fold_in(jax.random.fold_in(key, 0), len(text))
            assert token == np.argmax(logits_V + np.asarray(jax.random.gumbel(key, (PADDED,)))[:VOCAB])
            text.append(token)
        (alone,) = short.generate([start], chain=chain, max_new_tokens=30, seed=4)
        assert alone.tokens == row.tokens


@pytest.mark.parametrize("sizes", [{"data": 8}, {"tensor": 4, "data": 2}, {"tensor": 2, "replica": 2, "data": 2}])
def test_a_mesh_writes_what_one_device_writes(writer, sizes):
    request = {"chain": NUCLEUS, "max_new_tokens": 12, "seed": 3, "samples": 2, "stop_ids": [4]}
    for prompts in ([prompt(9), prompt(1), prompt(30)], [prompt(1)]):
        with jax.set_mesh(make_mesh(sizes)):
            found = Generator(model(), vocab_size=VOCAB, context=CONTEXT).generate(prompts, **request)
        assert [row.tokens for row in found] == [row.tokens for row in writer.generate(prompts, **request)]


@pytest.mark.parametrize("cache", ["plain", "int8"])
def test_a_mesh_writes_from_rings_what_one_device_writes(cache):
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope(), window=6), c.MLP(32, gated=True))
    windowed = c.Model(PADDED, 16, CONTEXT, (c.Stack((block,), 2),), init=c.Init(embedding=0.7, residual=0.3))

    def texts() -> list[list[int]]:
        network = jax.jit(lambda: Transformer(windowed, jax.random.key(0), c.Execution(cache=cache)))()
        writer = Generator(network, vocab_size=VOCAB, context=CONTEXT)
        prompts = [prompt(length) for length in (9, 1, 50)]
        return [row.tokens for row in writer.generate(prompts, chain=NUCLEUS, max_new_tokens=30, seed=3)]

    expected = texts()
    with jax.set_mesh(make_mesh({"tensor": 4, "data": 2})):
        assert texts() == expected


# Cost


@pytest.fixture
def compilations():
    """The names of what JAX compiled since."""
    seen, active = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: active and event.endswith("backend_compile_duration") and seen.append(event)
    )
    yield seen
    active.clear()


def test_three_programs_serve_every_prompt_of_a_bucket_and_every_value_of_a_chain(writer, compilations):
    chain = parse_chain("top_p=0.77,top_p=0.9")  # links of this test alone, so that nothing is compiled yet
    writer.generate([prompt(20)], chain=chain, max_new_tokens=5)
    assert len(compilations) == 3
    for length, new, seed, stops in ((18, 31, 2**50, []), (33, 9, 7, [3]), (30, 17, 1, [1, 2, 3, 4])):
        other = parse_chain(f"top_p={length / 100},top_p=1")
        writer.generate([prompt(length)], chain=other, max_new_tokens=new, seed=seed, stop_ids=stops)
    assert len(compilations) == 3
    again = Generator(model(), vocab_size=VOCAB, context=CONTEXT)
    before = len(compilations)
    again.generate([prompt(25)], chain=chain, max_new_tokens=3)
    assert len(compilations) == before, "another Generator of the same model shares the programs"


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("rows, panels", [(1, True), (8, True), (8, False)])
def test_a_decoding_step_copies_no_weight_and_a_batch_no_memory(rows, panels):
    """Read off the compiled program, whose sizes no other array has."""
    block = c.Block(c.Attention(4, 4, 24), c.MLP(200))
    config = c.Model(160, 96, 512, (c.Stack((block,), 2),), positions=c.Learned(), init=c.Init(residual=0.1))
    made = jax.jit(lambda: Transformer(config, jax.random.key(0), c.Execution(panels=panels)))()
    writer = Generator(made, vocab_size=160, context=512)
    texts = [generate.SequenceState([1, 2, 3], GREEDY, seed=0, sample=0, prompt=3, limit=253) for _ in range(rows)]
    batch = writer.batch(texts, [])
    prepared = writer.models[""]
    cache = branch_caches([prepared.prefill(batch.branches[0])], [batch.branches[0].last_B])
    state = generate.DecodeState(cache, writer.texts(texts, batch))
    decode, step = (
        generate.jitted_decode((prepared.structure,)),
        ([prepared.leaves], state, batch.requests, np.int32(4)),
    )
    program = decode.lower(*step, vocab_size=160).compile().as_text()
    weights = {leaf.size for leaf in prepared.leaves if leaf.ndim > 1 and leaf.size >= 96 * 64}
    memory = {rows * 4 * 256 * 24} if rows > 1 else set()  # one row's memory is copied: XLA's own choice of layout
    for shape in re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program):
        assert np.prod([int(size) for size in shape.split(",")]) not in weights | memory, shape
    given = jax.tree.leaves(state.cache)
    jax.block_until_ready(decode(*step, vocab_size=160))
    assert all(array.is_deleted() for array in given), "the memory is donated"


# The door


@pytest.mark.parametrize(
    "given, canonical",
    [
        ("", ""),
        ("greedy", "greedy"),
        (" temperature = 0.80 , top_k=50,top_p=.95 ", "temperature=0.8,top_k=50,top_p=0.95"),
        ("top_p=0.9,temperature=1.0", "top_p=0.9,temperature=1"),
        ("top_k=1000000,greedy", "top_k=1000000,greedy"),
    ],
)
def test_a_chain_is_read_and_written_in_its_order(given, canonical):
    assert format_chain(parse_chain(given)) == canonical
    assert parse_chain(canonical) == parse_chain(given)


def test_a_batch_of_many_chains_of_the_same_kinds_writes_what_each_writes_alone(writer):
    chains = [parse_chain(f"temperature={value},top_k={k}") for value, k in ((0.5, 9), (1.5, 3), (0.9, 29), (2, 1))]
    prompts = [prompt(length, seed=length) for length in (3, 9, 14, 20)]
    request = {"max_new_tokens": 12, "seed": 8}
    for index, row in enumerate(writer.generate(prompts, chain=chains, **request)):
        (alone,) = writer.generate([prompts[index]], chain=chains[index], **request)
        assert row.tokens == alone.tokens
    with pytest.raises(PromptError, match="differ in their links"):
        writer.generate([[1], [2]], chain=[NUCLEUS, GREEDY], **request)


@given(LINKS, st.booleans())
def test_canonical_text_reads_back_as_the_same_chain(links, greedy):
    chain = Chain(tuple(links), Greedy() if greedy else Sample())
    assert parse_chain(format_chain(chain)) == chain
    assert parse_chain(json.dumps(chain_to_json(chain))) == chain


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("temprature=0.8", ["'temprature'", "did you mean 'temperature'"]),
        ("magic=1", ["'magic'", "temperature, top_k, top_p"]),
        ("top_k=5,,top_p=0.9", ["''", "temperature, top_k, top_p"]),
        ("temperature", ["temperature is nothing", "temperature=0.8"]),
        ("temperature=0", ["temperature is 0", "write greedy"]),
        ("temperature=-1", ["temperature is -1", "from 1e-6"]),
        ("temperature=nan", ["temperature is nan"]),
        ("temperature=inf", ["temperature is inf"]),
        ("temperature=warm", ["temperature is warm"]),
        ("top_k=0", ["top_k is 0", "from 1"]),
        ("top_k=2.5", ["top_k is 2.5", "whole number"]),
        ("top_p=0", ["top_p is 0", "above 0 and up to 1"]),
        ("top_p=1.01", ["top_p is 1.01"]),
        ("top_p=", ["top_p is nothing"]),
        ("greedy=1", ["greedy takes no value", "'1'"]),
        ("greedy,top_k=5", ["'top_k=5' after greedy", "must come last"]),
    ],
)
def test_a_chain_that_can_not_be_read_says_why_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    said = str(error.value)
    assert "\n" not in said and repr(sampler) in said
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    "prompts, new, kind, parts",
    [
        ([[1], prompt(200)], 10, PromptTooLong, ["prompt 1 has 200 tokens", "context is 128", "127 at most"]),
        ([prompt(128)], 1, PromptTooLong, ["prompt 0 has 128 tokens"]),
        ([[1], []], 5, PromptError, ["prompt 1 is empty"]),
        ([[1, VOCAB]], 5, PromptError, ["prompt 0", "29", "from 0 to 28"]),
        ([[-1]], 5, PromptError, ["-1", "from 0 to 28"]),
        ([], 5, PromptError, ["0 prompts"]),
        ([[1]], 0, PromptError, ["max_new_tokens 0"]),
    ],
)
def test_a_request_that_can_not_be_written_to_is_refused_at_the_call(writer, prompts, new, kind, parts):
    with pytest.raises(kind) as error:
        writer.stream(prompts, chain=GREEDY, max_new_tokens=new)
    said = str(error.value)
    assert "\n" not in said
    assert all(part in said for part in parts), said


def test_rows_and_prompts_come_in_few_shapes():
    assert [generate.power_of_two(count) for count in (0, 1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 4, 4, 8, 64, 128]
