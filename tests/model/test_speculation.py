"""Drafts: what is proposed, and that texts stay the same and take fewer forward passes."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode.chain import parse_chain
from model.decode.completion import Completion
from model.decode.engine import Engine, Request
from model.decode.prompts import PromptError
from model.decode.speculation import DraftModel, PromptLookup
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(240)
VOCAB, CONTEXT = 29, 48


def slow_lookup(text: list[int], longest: int, shortest: int, count: int) -> list[int]:
    """The definition, position by position: copies token by token behind the newest earlier occurrence."""
    for length in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, length - 1, -1):
            if text[end - length : end] == text[-length:]:
                whole = list(text)
                for index in range(min(count, 4 * length - 1)):
                    whole.append(whole[end + index])
                return whole[len(text) :]
    return []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 4), st.integers(1, 20))
@settings(deadline=None, max_examples=300)
def test_prompt_lookup_copies_what_followed_the_newest_longest_repeat(text, shortest, more, count):
    longest = shortest + more
    expected = slow_lookup(text, longest, shortest, count)
    assert PromptLookup(longest, shortest).draft(np.array(text), count) == expected


def model(layers: int = 2, mixer=None) -> Transformer:
    """With fewer layers a model has the same embeddings, and agrees often."""
    block = c.Block(mixer or c.Attention(4, 2, 8, rope=c.Rope()), c.MLP(32, gated=True))
    config = c.Model(32, 16, CONTEXT, (c.Stack((block,), layers),), init=c.Init(embedding=0.7, residual=0.1))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


def requests() -> list[Request]:
    """A text that outgrows the context, one that repeats itself, one of a single token."""
    lengths, made = [(5, 20), (40, 30), (9, 8), (1, 12), (20, 25)], []
    for index, (length, new) in enumerate(lengths):
        prompt = np.random.default_rng(index).integers(0, VOCAB, length).tolist()
        chain = parse_chain(f"temperature={0.5 + 0.1 * index},top_k=9")
        made.append(Request(prompt * (1 + (index == 2)), chain, new, seed=index))
    return made


def written(engine: Engine) -> list[Completion]:
    texts = [Completion() for _ in requests()]
    for index, piece in engine.run(requests()):
        texts[index].extend(piece)
    return texts


@pytest.fixture(scope="module")
def plain() -> list[Completion]:
    return written(Engine(model(), vocab_size=VOCAB, context=CONTEXT, slots=2, page_size=4))


def drafters() -> dict:
    small = {"vocab_size": VOCAB, "context": CONTEXT, "slots": 2}
    return {
        "lookup": PromptLookup(shortest=1),
        "model": DraftModel(model(1), **small),
    }


@pytest.mark.parametrize("name", ["lookup", "model"])
def test_speculated_texts_are_the_same_and_say_how_many_drafts_they_kept(plain, name):
    engine = Engine(model(), vocab_size=VOCAB, context=CONTEXT, slots=2, page_size=4, draft=drafters()[name], drafts=3)
    texts = written(engine)
    for text, expected in zip(texts, plain, strict=True):
        assert (text.tokens, text.finish_reason) == (expected.tokens, expected.finish_reason)
        np.testing.assert_allclose(text.log_probabilities, expected.log_probabilities, atol=1e-4)
        assert 0 <= text.accepted <= min(text.drafted, len(text.tokens))
    drafted, accepted = sum(text.drafted for text in texts), sum(text.accepted for text in texts)
    assert 0 < accepted < drafted
    if name == "model":
        assert accepted > 0.7 * drafted


def test_what_can_not_forget_drafts_is_refused_in_one_line():
    recurrent = model(mixer=c.LSTM())
    with pytest.raises(PromptError, match="write without drafts"):
        Engine(recurrent, vocab_size=VOCAB, context=CONTEXT, slots=1, draft=PromptLookup())
    with pytest.raises(PromptError, match="take a model with plain attention"):
        DraftModel(recurrent, vocab_size=VOCAB, context=CONTEXT, slots=1)
