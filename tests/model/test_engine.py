"""The engine: whatever else it serves, a request's text is what Generator writes for it alone."""

import jax
import numpy as np
import pytest

from model import config as c
from model.decode.chain import parse_chain
from model.decode.engine import Engine, Request
from model.decode.generate import Completion, Generator
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT = 29, 48
ATTENTION = c.Attention(4, 2, 8, rope=c.Rope())
BLOCKS = {
    "attention": c.Block(ATTENTION, c.MLP(32, gated=True)),
    "lstm": c.Block(c.LSTM(), None, placement="plain"),
    "shifted": c.Block(ATTENTION, c.MLP(32), token_shift=0.5),
}
CHAINS = ["greedy", "temperature=0.8,top_k=9", "temperature=1.4,top_k=3", "top_p=0.9"]


def model(name: str) -> Transformer:
    stack = c.Stack((BLOCKS[name], BLOCKS["attention"]), 1)
    config = c.Model(32, 16, CONTEXT, (stack,), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


@pytest.fixture(scope="module", params=BLOCKS)
def network(request) -> Transformer:
    return model(request.param)


@pytest.fixture(scope="module")
def generator(network) -> Generator:
    return Generator(network, vocab_size=VOCAB, context=CONTEXT)


def requests(count: int, seed: int) -> list[Request]:
    """Requests of every kind: chains, lengths, seeds, stop ids, shared beginnings, texts that outgrow the context."""
    random = np.random.default_rng(seed)
    beginning = random.integers(0, VOCAB, 25).tolist()
    made = []
    for index in range(count):
        prompt = beginning[: random.integers(0, 25)] + random.integers(0, VOCAB, random.integers(1, 20)).tolist()
        chain = parse_chain(CHAINS[index % len(CHAINS)])
        stop_ids = random.integers(0, VOCAB, random.integers(0, 3)).tolist()
        made.append(Request(prompt, chain, int(random.integers(1, 60)), int(random.integers(2**40)), 0, stop_ids))
    return made


def alone(generator: Generator, request: Request) -> Completion:
    """The text of a request as Generator writes it: its sample is the last of so many."""
    return generator.generate(
        [request.prompt], chain=request.chain, max_new_tokens=request.max_new_tokens, seed=request.seed,
        samples=request.sample + 1, stop_ids=request.stop_ids,
    )[-1]  # fmt: skip


def test_texts(network, generator):
    engine = Engine(network, vocab_size=VOCAB, context=CONTEXT, slots=5, page_size=4, pages=30)
    given = requests(12, seed=1)
    found = [Completion() for _ in given]
    for index, piece in engine.run(given):
        found[index].extend(piece)
    print(engine.programs, engine.tokens_read, engine.tokens_found, engine.scheduler.preemptions)
    for request, text in zip(given, found, strict=True):
        expected = alone(generator, request)
        assert (text.tokens, text.finish_reason) == (expected.tokens, expected.finish_reason)
        np.testing.assert_allclose(text.log_probabilities, expected.log_probabilities, atol=1e-4)
