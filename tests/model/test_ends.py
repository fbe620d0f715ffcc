"""The ends of a chain: loops found where brute force finds them, stop tokens of each row, results that say why."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode.chain import SamplerError, chain_to_json, parse_chain, stack_chains
from model.decode.completion import Completion
from model.decode.ends import LoopDetector
from model.decode.generate import Generator
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT = 29, 64


def model() -> Transformer:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    config = c.Model(VOCAB, 16, CONTEXT, (c.Stack((block,), 2),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


@pytest.fixture(scope="module")
def writer() -> Generator:
    return Generator(model(), vocab_size=VOCAB, context=CONTEXT)


# Loops


def first_loop(tokens, repeats, period, least):
    """(index, start) of the first loop by its definition: every end, every period, the whole tail compared anew."""
    for end in range(1, len(tokens) + 1):
        for length in range(1, period + 1):
            start = end
            while start > 0 and (start + length > end or tokens[start - 1] == tokens[start - 1 + length]):
                start -= 1
            if end - start >= max(repeats * length, least):
                return end - 1, start
    return None


PIECES = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(1, 5)), min_size=1, max_size=5
)


@given(PIECES, st.integers(2, 4), st.integers(1, 5), st.integers(2, 9), st.lists(st.integers(1, 6)))
@settings(deadline=None, max_examples=300)
def test_a_loop_is_found_where_brute_force_finds_it_whatever_the_dispatches(pieces, repeats, period, least, sizes):
    tokens = [token for piece, times in pieces for token in piece * times]
    detector, at = LoopDetector(repeats, period, least), 0
    for size in [*sizes, len(tokens)]:
        if found := detector.push(tokens[at : at + size]):
            found = at + found[0], found[1]
            break
        at += size
    assert found == first_loop(tokens, repeats, period, least)


@pytest.mark.parametrize(
    "tokens, found",
    [
        ([7, 1, 2, 1, 2, 1, 2, 1, 2], (8, 1)),
        ([7, 1, 2, 1, 2, 1, 2, 1, 3, 1, 2], None),
        ([5, 5, 5, 5, 5, 5, 5, 5], (7, 0)),
        ([1, 2, 3, 4, 5] * 9, None),  # a longer piece than is looked for
    ],
)
def test_a_loop_has_enough_repeats_and_enough_tokens(tokens, found):
    assert LoopDetector(repeats=3, period=4, tokens=8).push(tokens) == found


@pytest.mark.parametrize("chunk", [1, 16])
def test_a_text_that_loops_ends_at_the_same_token_alone_and_beside_others(writer, chunk):
    """Greedy text of this model loops; the others of the batch go on to their limits."""
    prompts = [np.random.default_rng(seed).integers(0, VOCAB, 6).tolist() for seed in range(4)]
    free = writer.generate(prompts, chain=parse_chain("greedy"), max_new_tokens=100)
    found = [first_loop(row.tokens, 3, 8, 12) for row in free]
    assert any(found), "the test needs a loop"
    chains = [parse_chain("greedy,max_repeats(repeats=3,period=8,min_tokens=12)"), parse_chain("greedy")] * 2
    small = Generator(model(), vocab_size=VOCAB, context=CONTEXT, chunk=chunk)
    for rows in (
        small.generate(prompts, chain=chains, max_new_tokens=100),
        [small.generate([p], chain=chain, max_new_tokens=100)[0] for p, chain in zip(prompts, chains, strict=True)],
    ):
        for row, before, loop, chain in zip(rows, free, found, chains, strict=True):
            last, start = (loop or (99, None)) if chain.ends else (99, None)
            assert row.tokens == before.tokens[: last + 1] and len(row.log_probabilities) == len(row.tokens)
            assert row.repetition_start == start
            assert row.finish_reason == ("length" if start is None else "repetition")


def test_a_looping_batch_stops_computing(writer):
    chain = parse_chain("greedy,max_repeats(repeats=2,period=1,min_tokens=2)")
    uniform = Generator(jax.tree.map(lambda x: x * 0, model()), vocab_size=VOCAB, context=CONTEXT)
    dispatches = list(uniform.stream([[1], [2]], chain=chain, max_new_tokens=1000))
    assert [[piece.tokens for piece in pieces] for pieces in dispatches] == [[[0]] * 2] * 2, "one alone, then a chunk"
    assert [piece.repetition_start for piece in dispatches[1]] == [0, 0]


# Tokens


def test_stop_tokens_end_the_rows_whose_chain_names_them(writer):
    prompts = [np.random.default_rng(seed).integers(0, VOCAB, 6).tolist() for seed in range(3)]
    request = {"max_new_tokens": 20, "seed": 9}
    free = writer.generate(prompts, chain=parse_chain("top_k=20"), **request)
    stops = [[row.tokens[5], 28] for row in free[:2]] + [[]]
    chains = [parse_chain("top_k=20" + (f",stop_tokens={ids}" if ids else "")) for ids in stops]
    for row, before, ids in zip(writer.generate(prompts, chain=chains, **request), free, stops, strict=True):
        expected = next((i for i, token in enumerate(before.tokens) if token in ids), None)
        assert row.tokens == before.tokens[:expected]
        assert row.finish_reason == ("length" if expected is None else "stop")


# Chains


def test_ends_are_no_part_of_a_program():
    plain, ended = parse_chain("top_k=5"), parse_chain('stop_tokens=3,max_repeats=9,top_k=5,stop="END"')
    assert plain.kinds == ended.kinds and stack_chains([plain, ended]).ends == ()
    assert str(ended) == 'top_k=5,stop_tokens=3,max_repeats=9,stop="END"' and parse_chain(str(ended)) == ended
    assert chain_to_json(ended)[1:] == [
        {"name": "stop_tokens", "tokens": 3},
        {"name": "max_repeats", "repeats": 9},
        {"name": "stop", "texts": "END"},
    ]
    assert str(parse_chain('greedy,stop=["a","b"]')) == 'greedy,stop=["a", "b"]'


@pytest.mark.parametrize(
    "sampler, said",
    [
        ("stop=", "stop is nothing; it takes a text or several"),
        ('stop=["a",""]', 'stop is ["a", ""]; it takes a text'),
        ("stop_tokens=[]", "stop_tokens is []; it takes an id or several"),
        ("stop_tokens=-1", "stop_tokens is -1"),
        ("max_repeats=1", "repeats of max_repeats is 1; it takes how often a piece stands in a row, from 2"),
        ("max_repeats(repeats=3,period=0)", "period of max_repeats is 0"),
        ("max_repeats(period=3)", "repeats of max_repeats is nothing"),
    ],
)
def test_an_end_that_can_not_be_read_says_why(sampler, said):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    assert said in str(error.value)


def test_what_a_row_came_to_stays_while_others_are_written(writer):
    """A row that is through keeps its reason however many dispatches its batch still takes."""
    ids = list(range(VOCAB))
    chains = [parse_chain(f"banned_words={[[i] for i in ids[:n]]}") for n in (VOCAB, 4)]
    emptied, other = writer.generate([[1], [2]], chain=chains, max_new_tokens=40)
    assert (emptied.tokens, emptied.finish_reason) == ([], "emptied")
    assert emptied.emptied_by.startswith("banned_words=[[0], [1]")
    assert len(other.tokens) == 40 and other.emptied_by is None and not set(other.tokens) & set(ids[:4])


def test_a_completion_keeps_what_was_said_once():
    row = Completion()
    row.extend(Completion([1], finish_reason="repetition", repetition_start=3))
    row.extend(Completion(finish_reason="repetition"))
    assert (row.tokens, row.finish_reason, row.repetition_start) == ([1], "repetition", 3)
