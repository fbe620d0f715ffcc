"""The engine: whatever else it serves, and however little room it has, a request's text is what Generator writes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode.chain import Chain, parse_chain
from model.decode.completion import Completion
from model.decode.engine import Engine, Request
from model.decode.generate import Generator
from model.decode.links.truncation import Temperature
from model.decode.parameters import Number, parameter, parameterized
from model.decode.prompts import PromptError, PromptTooLong
from model.decode.scheduler import QueueFull
from model.sharding import ShardingError, make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(300)
VOCAB, CONTEXT, SIZE = 29, 32, 4
ATTENTION = c.Attention(4, 2, 8, rope=c.Rope())
BLOCKS = {
    "attention": (c.Block(ATTENTION, c.MLP(32, gated=True)),),
    "recurrent": (c.Block(c.LSTM(), None, placement="plain"), c.Block(ATTENTION, c.MLP(32), token_shift=0.5)),
}


@parameterized
class EveryThird:
    """A link that remembers how many tokens it saw: it rules out all but some of them at every third."""

    phase: int = parameter(Number("a whole number", whole=True))

    def start(self, history, vocab_size):
        return jnp.zeros_like(history.length_B)

    def __call__(self, state, logits_BV, key_B):
        is_third_B = (state.memory + self.phase) % 3 == 0
        allowed_BV = (jnp.arange(logits_BV.shape[1]) % 5 == state.memory[:, None] % 5) | ~is_third_B[:, None]
        return state.memory + 1, jnp.where(allowed_BV, logits_BV, -jnp.inf)


GREEDY = parse_chain("greedy")


def sampled(value: float, phase: int = 0) -> Chain:
    return Chain((EveryThird(phase), Temperature(value)))


@functools.cache
def model(name: str) -> Transformer:
    config = c.Model(32, 16, CONTEXT, (c.Stack(BLOCKS[name], 1),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


def engine(name: str = "attention", **sizes) -> Engine:
    sizes = {"slots": 4, "page_size": SIZE, "pages": 40, "prefill_chunk": 64, "chunk": 8} | sizes
    return Engine(model(name), vocab_size=VOCAB, context=CONTEXT, **sizes)


def example(seed: int) -> Request:
    """A request of any kind: some begin the same, some outgrow the context, some have stop ids."""
    random = np.random.default_rng(seed)
    beginning = np.random.default_rng(99).integers(0, VOCAB, 20)[: random.integers(0, 21)].tolist()
    prompt = beginning + random.integers(0, VOCAB, random.integers(1, 6)).tolist()
    chain = GREEDY if seed % 3 else sampled(float(random.uniform(0.5, 2)), int(random.integers(3)))
    stop_ids = random.integers(0, VOCAB, random.integers(0, 2)).tolist()
    return Request(prompt, chain, int(random.integers(1, 30)), int(random.integers(2**40)), 0, stop_ids)


@functools.cache
def alone(name: str, seed: int) -> Completion:
    """The text of an example as Generator writes it."""
    return written_alone(name, example(seed))


def written_alone(name: str, request: Request) -> Completion:
    generator = Generator(model(name), vocab_size=VOCAB, context=CONTEXT, chunk=8)
    return generator.generate(
        [request.prompt], chain=request.chain, max_new_tokens=request.max_new_tokens, seed=request.seed,
        samples=request.sample + 1, stop_ids=request.stop_ids,
    )[-1]  # fmt: skip


def assert_same_text(found: Completion, expected: Completion) -> None:
    assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
    for name in ("log_probabilities", "chain_log_probabilities", "choice_log_probabilities", "truncated"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)


def run_all(served: Engine, requests: list[Request]) -> list[Completion]:
    texts = [Completion() for _ in requests]
    for index, piece in served.run(requests):
        texts[index].extend(piece)
    return texts


def leave_pages(served: Engine, count: int) -> None:
    """Takes all other pages away, as if something else held them; a smaller memory would be compiled for anew."""
    while served.scheduler.pool.available > count:
        served.scheduler.pool.take()


def assert_nothing_is_held(served: Engine, pages: int = 39) -> None:
    pool, scheduler = served.scheduler.pool, served.scheduler
    assert not served.busy and not scheduler.running and not scheduler.waiting
    assert pool.available == pages and sum(pool.holders) == pool.count - 1 - pages
    assert sorted(scheduler.free_slots) == list(range(served.slots))


# Texts


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=1, max_size=9),
    st.sets(st.integers(0, 8), max_size=2),
    st.integers(1, 4),
    st.sampled_from([8, 11, 39]),
)
@settings(deadline=None, max_examples=12, derandomize=True)
def test_a_requests_text_depends_on_no_other_request(arrivals, cancelled, slots, pages):
    """Submits and cancels at any time, with any number of slots; pages for all, or for one text alone."""
    served, texts, seeds, arrivals = engine(slots=slots), [], [], list(arrivals)
    leave_pages(served, pages)
    while arrivals or served.busy:
        seed, steps = arrivals[0] if arrivals else (0, 1)
        if arrivals and (steps == 0 or not served.busy):
            assert served.submit(example(seed)) == len(texts)
            texts, seeds, arrivals = [*texts, Completion()], [*seeds, seed], arrivals[1:]
            continue
        arrivals[:1] = [(seed, steps - 1)] if arrivals else []
        for number, piece in served.step():
            texts[number].extend(piece)
        for number in [number for number in sorted(cancelled) if number in served.rows][:1]:
            assert served.cancel(number) and not served.cancel(number)
    for number, (seed, text) in enumerate(zip(seeds, texts, strict=True)):
        expected = alone("attention", seed)
        if text.finish_reason == "cancelled":
            assert number in cancelled and text.tokens == expected.tokens[: len(text.tokens)]
        else:
            assert_same_text(text, expected)
    assert_nothing_is_held(served, pages)


def test_texts_of_a_model_that_remembers_rows_are_the_generators_too():
    """Slots are used by one text after the other, and texts are read again after they lost their pages."""
    served = engine("recurrent", slots=2)
    leave_pages(served, 9)
    for seed, text in enumerate(run_all(served, [example(seed) for seed in range(6)])):
        assert_same_text(text, alone("recurrent", seed))
    assert served.tokens_found == 0 and served.scheduler.preemptions
    assert_nothing_is_held(served, 9)


def test_a_sample_is_the_generators_of_the_same_index():
    request = Request([1, 2, 3], sampled(1.0), 8, seed=4, sample=1)
    assert_same_text(run_all(engine(), [request])[0], written_alone("attention", request))


def test_a_mesh_that_splits_heads_writes_the_same():
    requests, expected = [example(seed) for seed in range(4)], [alone("attention", seed).tokens for seed in range(4)]
    with jax.set_mesh(make_mesh({"tensor": 2}, jax.devices()[:2])):
        texts = run_all(engine(), requests)
    assert [text.tokens for text in texts] == expected


# What is shared


def test_what_is_known_is_not_read_again():
    served = engine()
    prompt = np.random.default_rng(5).integers(0, VOCAB, 18).tolist()
    first = Request(prompt, GREEDY, 9)
    (text,) = run_all(served, [first])
    assert (served.tokens_read, served.tokens_found) == (26, 0)  # the last token is not read
    again = Request([*prompt, *text.tokens[:3], 5], GREEDY, 4)  # the prompt, and what was written behind it
    assert_same_text(run_all(served, [again])[0], written_alone("attention", again))
    assert (served.tokens_read, served.tokens_found) == (26 + 5, 20)
    other = Request([*prompt[:9], prompt[9] + 1, *prompt[10:]], GREEDY, 4)
    assert_same_text(run_all(served, [other])[0], written_alone("attention", other))
    assert served.tokens_found == 20 + 8


def test_requests_that_begin_the_same_and_come_together_are_read_once():
    served, prompt = engine(), list(range(17))
    run_all(served, [Request([*prompt, last], GREEDY, 1) for last in range(4)])
    assert (served.tokens_read, served.tokens_found) == (16 + 4 * 2, 3 * 16)


def test_the_longest_unused_page_is_forgotten_first():
    served = engine()
    leave_pages(served, 8)
    prompts = [[seed] * 13 for seed in range(3)]  # three pages each are kept
    for index in (0, 1, 0, 2):
        run_all(served, [Request(prompts[index], GREEDY, 1)])
    found = served.tokens_found
    run_all(served, [Request(prompts[0], GREEDY, 1)])
    assert served.tokens_found - found == 12
    run_all(served, [Request(prompts[1], GREEDY, 1)])
    assert served.tokens_found - found < 24


# Order


def test_a_long_prompt_keeps_no_other_from_being_written():
    """Of two texts that are written while a prompt is read in pieces, both get tokens at every step."""
    served = engine(prefill_chunk=16, page_size=SIZE)
    short = [served.submit(Request([index, 1], GREEDY, 20)) for index in range(2)]
    served.step(), served.step()
    long = served.submit(Request([3] * (CONTEXT - 1), GREEDY, 1))
    (first, second) = ({number for number, _ in served.step()} for _ in range(2))
    assert first == set(short) and long in second | {number for number, _ in served.step()}


def test_nobody_is_overtaken_in_the_queue():
    served = engine(slots=2)
    leave_pages(served, 11)
    numbers = [served.submit(Request([number] * (25 if number == 1 else 2), GREEDY, 6)) for number in range(5)]
    first: list[int] = []
    while served.busy:
        first += [number for number, piece in served.step() if piece.tokens and number not in first]
    assert first == numbers


# Cost


def test_values_compile_nothing_and_programs_are_counted():
    compiled, active = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: active and event.endswith("backend_compile_duration") and compiled.append(event)
    )
    served = engine(pages=41)  # a size of this test alone, so that nothing is compiled yet
    before = len(compiled)
    run_all(served, [Request([1, 2, 3], sampled(0.5), 9)])
    assert len(compiled) - before == served.programs == 2
    run_all(served, [Request([1, 2, 3, 4], sampled(1.7, 2), 5, seed=2**50, stop_ids=[3])])
    assert len(compiled) - before == served.programs == 2
    active.clear()


def test_a_dispatch_copies_no_pages():
    """Read off the compiled programs, whose sizes no other array has."""
    served = engine(pages=37)
    served.submit(Request([1] * 9, GREEDY, 9))
    programs, run = [], served.dispatch

    def spy(program, *arguments, **static):
        programs.append(program.lower(served.leaves, served.memory, *arguments, **static).compile().as_text())
        return run(program, *arguments, **static)

    served.dispatch = spy
    served.step()
    assert len(programs) == 2
    for program in programs:
        for shape in re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program):
            assert np.prod([int(size) for size in shape.split(",")]) != 37 * SIZE * 2 * 8, shape


# The door


@pytest.mark.parametrize(
    "request_, kind, parts",
    [
        (Request([], GREEDY, 5), PromptError, ["the prompt is empty"]),
        (Request([1, VOCAB], GREEDY, 5), PromptError, ["29", "from 0 to 28"]),
        (Request([1] * CONTEXT, GREEDY, 5), PromptTooLong, ["32 tokens", "31 at most"]),
        (Request([1], GREEDY, 0), PromptError, ["max_new_tokens 0"]),
        (Request([1] * 9, GREEDY, 9), PromptError, ["18 tokens", "5 pages of 4", "has 4", "17 tokens at most"]),
    ],
)
def test_a_request_that_can_never_be_served_is_refused_at_once(request_, kind, parts):
    served = engine(pages=5)
    with pytest.raises(kind) as error:
        served.submit(request_)
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), str(error.value)
    assert not served.busy


def test_a_full_queue_says_so_and_takes_more_after_a_step():
    served = engine(slots=1, waiting=2)
    for _ in range(2):
        served.submit(Request([1], GREEDY, 1))
    with pytest.raises(QueueFull, match="2 requests wait already"):
        served.submit(Request([1], GREEDY, 1))
    served.step()
    served.submit(Request([1], GREEDY, 1))
    with pytest.raises(RuntimeError, match="2 requests are not finished"):
        run_all(served, [Request([1], GREEDY, 1)])
    while served.busy:
        served.step()
    assert all(text.finish_reason == "length" for text in run_all(served, [Request([1], GREEDY, 1)] * 5))


def test_an_engine_refuses_a_mesh_that_splits_rows():
    with jax.set_mesh(make_mesh({"data": 8})), pytest.raises(ShardingError, match=r"8 devices split the rows.*tensor"):
        engine()
