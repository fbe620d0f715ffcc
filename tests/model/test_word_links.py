"""Links of words: their definitions in float64 over small vocabularies, transformers' processors, whole texts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decode.chain import Chain, SamplerError, chain_to_json, format_chain, parse_chain, stack_chains
from model.decode.links.link import History, LinkState
from model.decode.links.words import BannedWords, LogitBias, MinLength

pytestmark = pytest.mark.timeout(120)
VOCAB = 6
PHRASES = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4, unique=True
)
BIASES = PHRASES.flatmap(
    lambda phrases: st.tuples(*[st.floats(-9, 9).map(lambda x: round(x, 3))] * len(phrases)).map(
        lambda amounts: tuple(zip(phrases, amounts, strict=True))
    )
)
LINKS = st.one_of(PHRASES.map(tuple).map(BannedWords), BIASES.map(LogitBias), st.integers(1, 9).map(MinLength))
TEXTS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7), min_size=2, max_size=2)


run_link = jax.jit(lambda link, state, logits_BV: link(state, logits_BV, None)[1])


def applied(links, texts, logits_BV, prompt=1, stops=(-1,), slots=12):
    """The logits after one link a row, all of a kind; behind each text stand ids that count for nothing."""
    rows = len(texts)
    tokens_BS = np.full((rows, slots), 2, np.int32)
    for row, text in enumerate(texts):
        tokens_BS[row, : len(text)] = text
    history = History(
        jnp.asarray(tokens_BS), jnp.asarray([len(text) for text in texts]), jnp.full(rows, prompt, jnp.int32)
    )
    (link,) = stack_chains([Chain((link,)) for link in links]).links
    state = LinkState(history, jnp.tile(jnp.asarray(stops, jnp.int32), (rows, 1)))
    return np.asarray(run_link(link, state, jnp.asarray(logits_BV)))


def reference(link, text, logits_V, prompt=1, stops=()):
    logits = np.array(logits_V, np.float64)
    if isinstance(link, MinLength):
        if len(text) - prompt < link.tokens:
            logits[list(stops)] = -np.inf
        return logits
    pairs = link.amounts if isinstance(link, LogitBias) else [(phrase, -np.inf) for phrase in link.phrases]
    for phrase, amount in pairs:
        if text[max(len(text) - len(phrase) + 1, 0) :] == list(phrase[:-1]) and len(text) >= len(phrase) - 1:
            logits[phrase[-1]] += amount
    return logits


@given(LINKS, TEXTS, st.integers(0, 2**31), st.booleans())
@settings(deadline=None, max_examples=80)
def test_links_follow_their_definitions_over_texts_of_any_length(link, texts, seed, ruled_out):
    logits_BV = np.random.default_rng(seed).normal(0, 2, (2, VOCAB)).astype(np.float32)
    logits_BV[:, 3] = -np.inf if ruled_out else logits_BV[:, 3]
    found_BV = applied([link] * 2, texts, logits_BV, stops=(4, -1, 1))
    for found, text, logits_V in zip(found_BV, texts, logits_BV, strict=True):
        np.testing.assert_allclose(found, reference(link, text, logits_V, stops=(4, 1)), rtol=1e-5, atol=1e-5)


def test_each_row_of_a_batch_has_its_own_words_and_amounts():
    logits_BV = np.zeros((3, VOCAB), np.float32)
    banned = [BannedWords(((1,), (0, 0, 4))), BannedWords(((0, 2), (5,), (3,))), BannedWords(((1, 2, 3, 4),))]
    texts = [[0], [1, 0], [1, 2, 3]]  # the first is shorter than one of its phrases
    out = np.isneginf(applied(banned, texts, logits_BV))
    assert [np.flatnonzero(row).tolist() for row in out] == [[1], [2, 3, 5], [4]]
    biases = [LogitBias((((1,), 2.0),)), LogitBias((((0, 2), 1.5), ((2,), 1.0))), LogitBias((((5,), -7.0),))]
    found = applied(biases, texts, logits_BV)
    assert found.tolist() == [[0, 2, 0, 0, 0, 0], [0, 0, 2.5, 0, 0, 0], [0, 0, 0, 0, 0, -7]]


@pytest.mark.parametrize("seed", range(3))
def test_links_do_what_transformers_does(seed):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    processors = pytest.importorskip("transformers", reason="needs transformers").generation.logits_process
    random = np.random.default_rng(seed)
    text, logits_BV = random.integers(0, VOCAB, 9).tolist(), random.normal(0, 2, (1, VOCAB)).astype(np.float32)
    phrases = [(3,), tuple([*text[-1:], 4]), tuple([*text[-3:], 5]), tuple([1, *text[-2:], 0]), (2, 2)]
    biases = list(zip(phrases, random.normal(0, 3, 5).tolist(), strict=True))
    theirs = {
        LogitBias(tuple(biases)): processors.SequenceBiasLogitsProcessor([[list(p), a] for p, a in biases]),
        BannedWords(tuple(phrases)): processors.NoBadWordsLogitsProcessor([list(p) for p in phrases]),
        MinLength(3): processors.MinNewTokensLengthLogitsProcessor(7, 3, [1, 4]),
        MinLength(2): processors.MinNewTokensLengthLogitsProcessor(7, 2, [1, 4]),
    }
    for link, processor in theirs.items():
        expected = processor(torch.tensor([text]), torch.tensor(logits_BV)).numpy()
        np.testing.assert_allclose(applied([link], [text], logits_BV, 7, (4, 1)), expected, rtol=1e-6)


# What people write


@given(LINKS)
def test_chains_of_words_read_back_as_they_were(link):
    chain = Chain((link,))
    assert parse_chain(format_chain(chain)) == chain == parse_chain(json.dumps(chain_to_json(chain)))


@pytest.mark.parametrize(
    "given, amounts",
    [
        ('{"yes": 2, "198": -100}', (("yes", 2.0), ((198,), -100.0))),
        ('[["198", 2], [198, -1], [[198, 13], 0.5]]', (("198", 2.0), ((198,), -1.0), ((198, 13), 0.5))),
        ('{"007": 1}', (("007", 1.0),)),
    ],
)
def test_a_bias_names_words_or_ids(given, amounts):
    chain = parse_chain(f"logit_bias={given}")
    assert chain.links[0].amounts == amounts and parse_chain(str(chain)) == chain


@pytest.mark.parametrize(
    "sampler",
    ["logit_bias=5", "logit_bias={}", 'logit_bias={"a": true}', 'logit_bias={"a": NaN}', 'logit_bias={"a": 1e5}',
     'logit_bias={"a": "1"}', 'logit_bias=[["a", 1], ["a", 2]]', "logit_bias=[[[-1], 2]]", 'logit_bias={"": 1}',
     "banned_words=", "banned_words=[5]", 'banned_words={"a": 1}', "banned_words=[[]]", "min_length=0"],
)  # fmt: skip
def test_what_is_no_word_and_no_id_is_refused_in_one_line(sampler):
    with pytest.raises(SamplerError, match=r" is .*; it takes ") as error:
        parse_chain(sampler)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampler", ['banned_words=[[3], "foo"]', 'logit_bias={"5": 1, "foo": 2}'])
def test_words_without_ids_never_reach_a_program(sampler):
    with pytest.raises(SamplerError, match="holds 'foo', and the model knows ids alone"):
        stack_chains([parse_chain(sampler)])
