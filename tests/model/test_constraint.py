"""Constrained decoding: distributions by enumeration, texts against a slow decoder, how a text with a grammar ends."""

import json
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode import chain
from model.decode.chain import Chain, SamplerError, chain_to_json, format_chain, parse_chain, stack_chains
from model.decode.constraint import find_grammar, with_masks
from model.decode.generate import Generator
from model.decode.links.constraint import AllowedTokens, pack, unpack
from model.decode.links.link import History, LinkState
from model.decode.parameters import parameterized
from model.decode.prompts import PromptError
from model.decode.strategies import Sample
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, PADDED, CONTEXT = 45, 48, 64
END = 44
TEXTS = [(3, 40, 41), (3, 40, 7, 7), (9,), (9, 33), *[(20, a, b, a) for a in (1, 2, 35) for b in (5, 6, 43)]]


@dataclass
class OneOf:
    """A matcher of a text that is one of a set of lists of ids."""

    texts: list[tuple[int, ...]]
    stop_ids: list[int]
    written: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return tuple(self.written) in self.texts

    @property
    def next_ids(self) -> set[int]:
        count = len(self.written)
        return {text[count] for text in self.texts if list(text[:count]) == self.written and len(text) > count}

    @property
    def finished(self) -> bool:
        return self.complete and not self.next_ids

    def mask(self) -> np.ndarray:
        allowed = self.next_ids | (set(self.stop_ids) if self.complete else set())
        return pack(np.isin(np.arange(VOCAB), list(allowed)))

    def accept(self, token: int) -> None:
        assert token in self.next_ids
        self.written.append(token)


def maker(grammar, prompt, stop_ids):
    """Texts that begin with the id of the pattern; of all texts for an empty one. The grammar is not read further."""
    first = {"all": None, "three": 3, "nine": 9, "twenty": 20, "none": -1}[grammar.pattern]
    return OneOf([text for text in TEXTS if first is None or text[0] == first], list(stop_ids))


def model() -> Transformer:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    config = c.Model(PADDED, 16, CONTEXT, (c.Stack((block,), 1),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


def writer(context: int = CONTEXT) -> Generator:
    return Generator(model(), vocab_size=VOCAB, context=context, matcher_maker=maker)


@pytest.fixture(scope="module")
def constrained() -> Generator:
    return writer()


def softmax64(logits_V):
    exponents = np.exp(np.asarray(logits_V, np.float64) - np.max(logits_V))
    return exponents / exponents.sum()


def applied(links, logits_BV):
    rows = len(logits_BV)
    history = History(jnp.zeros((rows, 1), jnp.int32), jnp.ones(rows, jnp.int32), jnp.ones(rows, jnp.int32))
    for link in stack_chains([Chain(tuple(links))] * rows).links:
        _, logits_BV = link(LinkState(history, jnp.full((rows, 1), -1)), logits_BV, None)
    return np.asarray(logits_BV)


# What is left of a distribution


@given(st.lists(st.booleans(), min_size=1, max_size=100), st.sampled_from([1, 31, 32, 33, 80]))
@settings(deadline=None, max_examples=40)
def test_a_mask_is_the_set_that_it_was_made_of(allowed, size):
    expected = (allowed + [False] * size)[:size]
    assert np.asarray(unpack(pack(np.array(allowed))[None], size))[0].tolist() == expected


@given(st.sampled_from([5, 32, 70]), st.integers(0, 2**31), st.floats(0.3, 3), st.booleans())
@settings(deadline=None, max_examples=30)
def test_allowed_tokens_keep_their_probabilities_relative_to_each_other(size, seed, temperature, first):
    generator = np.random.default_rng(seed)
    logits_V, allowed_V = generator.normal(0, 3, size), generator.random(size) < 0.4
    allowed_V[generator.integers(size)] = True
    links = [AllowedTokens(pack(allowed_V)), *parse_chain(f"temperature={temperature}").links]
    found = softmax64(applied(links if first else links[::-1], np.float32(logits_V)[None])[0])
    expected = np.where(allowed_V, softmax64(logits_V / temperature), 0)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=2e-6)


def test_texts_come_as_often_as_the_model_says_among_those_of_the_grammar(constrained):
    """All texts of the grammar are enumerated, each with the product of its tokens' renormalised probabilities."""
    whole, prompt, draws = model(), [1, 2, 3], 1500
    read = jax.jit(lambda model, x: model.logits(model.hidden(x)))
    expected = {}
    for text in TEXTS:
        matcher, probability = OneOf(TEXTS, [END]), 1.0
        logits_TV = np.asarray(read(whole, np.array([[*prompt, *text, 0, 0, 0, 0][:8]])))[0]
        for index, token in enumerate([*text, END]):
            logits_V = logits_TV[len(prompt) - 1 + index, :VOCAB]
            allowed_V = np.asarray(unpack(matcher.mask()[None], VOCAB))[0]
            probability *= softmax64(np.where(allowed_V, logits_V, -np.inf))[token]
            if token == END or (matcher.accept(token) or matcher.finished):
                break
        expected[text] = draws * probability
    assert abs(sum(expected.values()) - draws) < 1e-6
    rows = constrained.generate(
        [prompt], chain=parse_chain("regex=all"), max_new_tokens=9, samples=draws, stop_ids=[END]
    )
    counts = {text: 0 for text in TEXTS}
    for row in rows:
        assert row.finish_reason == "stop"
        counts[tuple(row.tokens)] += 1
    chi_square = sum((counts[text] - expected[text]) ** 2 / expected[text] for text in TEXTS)
    assert chi_square < 32.9  # 12 degrees of freedom: once in a thousand seeds


# Text


def test_a_text_of_a_grammar_comes_a_token_at_a_time_and_others_keep_their_chunks(constrained):
    def sizes(sampler):
        pieces = constrained.stream([[5, 6]], chain=parse_chain(sampler), max_new_tokens=30, stop_ids=[END])
        return [len(piece.tokens) for (piece,) in pieces]

    assert sizes("regex=twenty") == [1, 1, 1, 1]
    assert sizes("")[1] > 1, "behind the first token, which comes alone"


def test_a_row_does_not_depend_on_its_neighbours_and_their_grammars(constrained):
    names = ["twenty", "nine", "all", "three", "all"]
    chains = [parse_chain(f"regex={name},temperature={0.7 + index}") for index, name in enumerate(names)]
    prompts = [[1 + index] * (index + 1) for index in range(len(names))]
    request = {"max_new_tokens": 9, "seed": 4, "samples": 3, "stop_ids": [END]}
    together = constrained.generate(prompts, chain=chains, **request)
    for index, prompt in enumerate(prompts):
        alone = constrained.generate([prompt], chain=chains[index], **request)
        for row, same in zip(alone, together[3 * index : 3 * index + 3], strict=True):
            assert row.tokens == same.tokens and row.finish_reason == same.finish_reason == "stop"
            np.testing.assert_allclose(row.chain_log_probabilities, same.chain_log_probabilities, atol=1e-4)


def test_a_mesh_writes_what_one_device_writes(constrained):
    request = {"chain": parse_chain("regex=all"), "max_new_tokens": 5, "seed": 3, "samples": 3, "stop_ids": [END]}
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 4})):
        found = writer().generate([[7]], **request)
    assert [row.tokens for row in found] == [row.tokens for row in constrained.generate([[7]], **request)]


def test_a_text_that_outgrows_the_context_keeps_its_place_in_the_grammar():
    """Once the text is read anew, the model sees eight tokens of it and the matcher all."""
    long = [tuple(np.random.default_rng(seed).integers(0, END, 40).tolist()) for seed in range(6)]
    short = Generator(model(), vocab_size=VOCAB, context=16, matcher_maker=lambda *_: OneOf(long, [END]))
    rows = short.generate([[1], [2] * 15, [3] * 9], chain=parse_chain("regex=long"), max_new_tokens=50, samples=2)
    assert all(tuple(row.tokens) in long and row.finish_reason == "stop" for row in rows)


# The end


def test_a_finished_grammar_ends_its_text_with_and_without_stop_ids(constrained):
    for stop_ids in ([], [END]):
        rows = constrained.generate(
            [[1]], chain=parse_chain("regex=twenty"), max_new_tokens=9, samples=9, stop_ids=stop_ids
        )
        assert {row.finish_reason for row in rows} == {"stop"}
        assert all(tuple(row.tokens) in TEXTS for row in rows)


def test_a_complete_text_that_may_go_on_ends_only_by_a_stop_id_or_goes_on(constrained):
    request = {"chain": parse_chain("regex=nine,temperature=9"), "max_new_tokens": 9, "samples": 40}
    texts = {tuple(row.tokens) for row in constrained.generate([[1]], **request, stop_ids=[END])}
    assert texts == {(9,), (9, 33)}
    assert {tuple(row.tokens) for row in constrained.generate([[1]], **request)} == {(9, 33)}


def test_a_text_that_is_cut_says_length_and_one_that_is_complete_there_says_stop(constrained):
    request = {"chain": parse_chain("regex=twenty"), "samples": 4}
    assert {row.finish_reason for row in constrained.generate([[1]], max_new_tokens=3, **request)} == {"length"}
    assert {row.finish_reason for row in constrained.generate([[1]], max_new_tokens=4, **request)} == {"stop"}


@pytest.mark.parametrize(
    "sampler, emptied_by", [("regex=none", 'regex="none"'), ("top_k=1,regex=twenty", 'regex="twenty"')]
)
def test_a_grammar_that_leaves_no_token_is_named(constrained, sampler, emptied_by):
    (row,) = constrained.generate([[1]], chain=parse_chain(sampler), max_new_tokens=9)
    assert (row.tokens, row.finish_reason, row.emptied_by) == ([], "emptied", emptied_by)


def test_another_grammar_compiles_nothing(constrained):
    seen = []
    request = {"max_new_tokens": 4, "stop_ids": [END]}
    constrained.generate([[1]], chain=parse_chain("top_p=0.9,regex=all"), **request)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: event.endswith("backend_compile_duration") and seen.append(event)
    )
    for name in ("twenty", "nine", "three"):
        constrained.generate([[2]], chain=parse_chain(f"top_p=0.8,regex={name}"), **request)
    assert not seen


# The door


@parameterized
class Pairs(Sample):
    """A strategy of two rows a text."""

    rows = 2


@pytest.mark.parametrize("links, named", [("regex=a,json", 'regex="a" and json'), ("regex=a,regex=b", 'regex="b"')])
def test_a_chain_has_one_grammar(links, named):
    with pytest.raises(SamplerError) as error:
        find_grammar(parse_chain(links))
    assert "one grammar" in str(error.value) and named in str(error.value) and "\n" not in str(error.value)


def test_a_strategy_of_several_rows_a_text_follows_no_grammar(monkeypatch):
    monkeypatch.setitem(chain.NAMES, Pairs, "pairs")
    monkeypatch.setitem(chain.STRATEGIES, "pairs", Pairs)
    with pytest.raises(SamplerError, match="pairs can't follow a grammar"):
        find_grammar(parse_chain("regex=a,pairs"))


def test_a_grammar_needs_a_matcher():
    bare = Generator(model(), vocab_size=VOCAB, context=CONTEXT)
    with pytest.raises(PromptError, match='regex="a": a grammar needs a tokenizer'):
        bare.stream([[1]], chain=parse_chain("regex=a"), max_new_tokens=3)


@pytest.mark.parametrize(
    "sampler, canonical",
    [
        (r'regex="[0-9]{4}\\.",temperature=0.5', r'regex="[0-9]{4}\\.",temperature=0.5'),
        (r"regex=\d+", r'regex="\\d+"'),
        ('json_schema={"type": "object", "required": ["b", "a"]}', None),
        (r'json_schema="{\"type\": \"null\"}"', 'json_schema={"type": "null"}'),
        ("json_schema=folder/a file.json,greedy", 'json_schema="folder/a file.json",greedy'),
        ("json,greedy", None),
    ],
)
def test_a_grammar_is_read_and_written_in_its_place(sampler, canonical):
    read = parse_chain(sampler)
    assert format_chain(read) == (canonical or sampler)
    assert parse_chain(format_chain(read)) == parse_chain(json.dumps(chain_to_json(read))) == read


@pytest.mark.parametrize(
    "sampler, part",
    [
        ("regex=", "regex is nothing"),
        ("json_schema=[1]", "json_schema is [1]"),
        ("json_schema", "person.json"),
        ("regex(pattern=5,a=1)", "no parameter 'a'"),
        ("json=1", "takes no value"),
    ],
)
def test_a_grammar_that_can_not_be_read_says_why(sampler, part):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_a_mask_takes_the_place_of_the_grammar():
    masked = with_masks(parse_chain("top_k=5,regex=a,temperature=2,greedy"), [pack(np.ones(3, bool))])
    assert [type(link).__name__ for link in masked.links] == ["TopK", "AllowedTokens", "Temperature"]
