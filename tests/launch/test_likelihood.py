"""Log-likelihoods of continuations, against a sum over the logits of the whole text in float64 NumPy, one by one."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from launch.inference import likelihood, likelihood_batches
from launch.inference.likelihood import Continuation, ContinuationScorer, encode_continuation
from launch.machine.auto import decoding_execution
from model.config import LSTM, MLP, Attention, Block, Execution, Init, Learned, Model, MoE, Norm, Rope, Stack
from model.decode.prompts import PromptError, PromptTooLong
from model.transformer import Transformer

VOCAB, PADDED, CONTEXT = 11, 16, 24  # ids from VOCAB on are padding, and random weights like them as well as others
MIXED = (
    Block(Attention(4, 2, 8, rope=Rope()), MoE(4, 2, 32), token_shift=0.5),
    Block(Attention(2, 2, 16, rope=Rope(), window=3), MLP(32)),
)
MODELS = {
    "learned positions": Model(
        PADDED, 32, CONTEXT, (Stack((Block(Attention(2, 2, 16), MLP(32)),), 1),), positions=Learned()
    ),
    "token shift, a mixture, a window": Model(PADDED, 32, CONTEXT, (Stack(MIXED, 1),)),
    "lstm": Model(PADDED, 32, CONTEXT, (Stack((Block(LSTM(), None, Norm(), placement="plain"),), 2),)),
}


def random_run(config: Model) -> SimpleNamespace:
    """All that a scorer needs of a checkpoint, with random weights whose probabilities are far from uniform."""
    config = replace(config, init=Init(weight=0.3, residual=0.3, embedding=1.0))
    execution = decoding_execution(Execution())
    model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()
    tokenizer = SimpleNamespace(vocab_size=VOCAB)
    return SimpleNamespace(
        name="a run", model=model, model_config=config, tokenizer=tokenizer, trained_length=config.context
    )


def reference(run, forward, request: Continuation) -> tuple[float, bool]:
    """(-log p in nats, is greedy) of one request alone, from the logits of its whole text."""
    count = len(request.continuation)
    whole = (*request.prompt, *request.continuation)[-run.trained_length - 1 :]
    tokens_BT = np.zeros((1, CONTEXT), np.int32)  # one shape for all: what comes behind changes nothing
    tokens_BT[0, : len(whole) - 1] = whole[:-1]
    logits_CV = np.asarray(forward(run.model, tokens_BT), np.float64)[
        0, len(whole) - 1 - count : len(whole) - 1, :VOCAB
    ]
    log_p_CV = logits_CV - np.log(np.exp(logits_CV).sum(-1, keepdims=True))
    return -log_p_CV[range(count), request.continuation].sum(), (logits_CV.argmax(-1) == request.continuation).all()


def random_requests(count: int, seed: int = 0) -> list[Continuation]:
    """Prompts of any length, some longer than the context, some that begin alike, with one to three continuations."""
    random, requests = np.random.default_rng(seed), []
    beginning = random.integers(0, VOCAB, 12)
    for number in range(count):
        prompt = random.integers(0, VOCAB, random.integers(1, CONTEXT + 8))
        prompt = np.concatenate([beginning[: random.integers(9, 13)], prompt[:8]]) if number % 2 else prompt
        for _ in range(random.integers(1, 4)):
            requests.append(
                Continuation(tuple(prompt.tolist()), tuple(random.integers(0, VOCAB, random.integers(1, 9)).tolist()))
            )
    return requests


@pytest.fixture
def small_batches(monkeypatch):
    """Several batches of a few rows and shapes, some of them with a shared beginning."""
    monkeypatch.setattr(likelihood_batches, "LEAST_LENGTH", 16)
    monkeypatch.setattr(likelihood_batches, "TOKENS", 200)
    monkeypatch.setattr(likelihood_batches, "LEAST_SHARED", 6)
    monkeypatch.setattr(likelihood_batches, "LEAST_FAMILY", 3)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_each_whole_text_alone(name, small_batches):
    run, requests = random_run(MODELS[name]), random_requests(14 if name == "learned positions" else 8)
    forward = jax.jit(lambda model, tokens_BT: model.logits(model.hidden(tokens_BT)))
    expected = [reference(run, forward, request) for request in requests]
    for devices in (1, 4) if name == "learned positions" else (2,):
        found = list(ContinuationScorer(run, jax.devices()[:devices]).scores(requests))
        assert sorted(index for index, _ in found) == list(range(len(requests)))
        for index, score in found:
            assert score.nats == pytest.approx(expected[index][0], abs=1e-4)
            assert score.is_greedy == expected[index][1] and score.tokens == len(requests[index].continuation)
    assert len({is_greedy for _, is_greedy in expected}) == 2


def test_every_text_of_a_length_together_is_certain(small_batches):
    run = random_run(MODELS["learned positions"])
    texts = [*itertools.product(range(VOCAB), repeat=3)]
    requests = [Continuation((3, 1), text) for text in texts] + [Continuation((3, 1), (i,)) for i in range(VOCAB)]
    found = dict(ContinuationScorer(run, jax.devices()[:2]).scores(requests))
    p = np.exp([-found[index].nats for index in range(len(requests))])
    assert p[: len(texts)].sum() == pytest.approx(1, abs=1e-5) == p[len(texts) :].sum()
    greedy = sorted(index for index, score in found.items() if score.is_greedy)
    likeliest = p[len(texts) :].argmax()
    assert texts[greedy[0]][0] == likeliest and greedy[1] == len(texts) + likeliest
    assert {found[index].tokens for index in greedy} == {1, 3}


def test_a_prompt_is_read_once_and_so_is_the_beginning_of_many(monkeypatch, small_batches):
    prompts = [(1, 2, 3, 4, 5, 6, 7, 8, i, i) for i in range(8)] + [(9, i) for i in range(3)]
    requests = [Continuation(prompt, (i, *range(i % 3))) for prompt in prompts for i in range(4)]
    scorer = ContinuationScorer(random_run(MODELS["learned positions"]), jax.devices()[:1])
    batches = list(likelihood_batches.batches(scorer.prompts(requests), 1))
    read = [batch.reading for batch in batches]
    assert sum(reading.arrays[1].sum() for reading in read) == 8 * 2 + 3 * 2
    assert [reading.prefix[1].tolist() for reading in read if reading.prefix] == [[8]] * (len(read) - 1)
    rests = [each for batch in batches for each in likelihood_batches.extensions(batch)]
    assert sum(each.arrays[2].sum() for each in rests) == sum(len(request.continuation) - 1 for request in requests)


def test_devices_exchange_nothing():
    scorer = ContinuationScorer(random_run(MODELS["learned positions"]), jax.devices()[:4])
    programs = []
    for batch in likelihood_batches.batches(scorer.prompts(random_requests(20)), 4):
        scorer.dispatch(batch.reading)
        job = next(likelihood_batches.extensions(batch))
        with jax.set_mesh(scorer.mesh):
            programs += [
                scorer.programs.start_prompts.lower(
                    scorer.leaves, *batch.reading.arrays, slots=batch.reading.slots, vocab_size=VOCAB
                ),
                scorer.programs.score_rest.lower(scorer.leaves, scorer.read.cache, *job.arrays, vocab_size=VOCAB),
                likelihood.jitted_score_first.lower(scorer.read.logits_BV, *batch.reading.first),
            ]
    assert len(programs) >= 3
    for program in programs:
        text = program.compile().as_text()
        assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in text]


def test_prompts_beyond_the_context_lose_their_beginning_and_one_line_says_so(capsys):
    run = random_run(MODELS["learned positions"])
    requests = [Continuation(tuple(i % VOCAB for i in range(50)), (1, 2)), Continuation((1,), (2,) * CONTEXT)]
    scorer = ContinuationScorer(run, jax.devices()[:1])
    found = dict(scorer.scores(requests))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("1 of 2 prompts are longer than the 24 tokens")
    kept = Continuation(requests[0].prompt[-CONTEXT + 1 :], (1, 2))
    assert found[0].nats == pytest.approx(dict(scorer.scores([kept]))[0].nats, abs=1e-5)
    with pytest.raises(PromptTooLong, match="request 0: its continuation has 25 tokens and a run was trained on 24"):
        scorer.scores([Continuation((1,), (2,) * 25)])
    for wrong in (Continuation((), (1,)), Continuation((1,), ()), Continuation((1,), (VOCAB,))):
        with pytest.raises(PromptError, match="request 0"):
            scorer.scores([wrong])


class Pieces:
    """A tokenizer of words with the space before them, as GPT-2 has them; `ab` is one token, and so is a space."""

    start_prompts, vocab_size = False, 100

    def __init__(self, start_id=None, end_id=None, start_prompts=False):
        self.start_id, self.end_id, self.start_prompts = start_id, end_id, start_prompts
        self.pieces = [" the", " cat", "ab", "a", "b", "the", "cat", " "]

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            index = next(i for i, piece in enumerate(self.pieces) if text.startswith(piece))
            ids, text = [*ids, index], text[len(self.pieces[index]) :]
        return ids


def test_prompt_and_continuation_are_encoded_together_as_lm_evaluation_harness_does():
    assert encode_continuation(Pieces(), "the", " cat") == Continuation((5,), (1,))
    assert encode_continuation(Pieces(), "the ", "cat") == Continuation((5,), (1,))  # the space goes along
    assert encode_continuation(Pieces(), "the  ", "cat") == Continuation((5,), (7, 1))
    assert encode_continuation(Pieces(), "catb", "a") == Continuation((6, 4), (3,))
    assert encode_continuation(Pieces(50, start_prompts=True), "the", " cat") == Continuation((50, 5), (1,))
    assert encode_continuation(Pieces(50), "the", " cat") == Continuation((5,), (1,))
    assert encode_continuation(Pieces(50, 51), "", "cat") == Continuation((50,), (6,))
    assert encode_continuation(Pieces(None, 51), " ", "cat") == Continuation((51,), (1,))
    assert encode_continuation(Pieces(3), "", "ab").prompt == encode_continuation(Pieces(3), "", "acat").prompt == (3,)
    assert encode_continuation(Pieces(3), "", "acat") == Continuation((3,), (6,))  # it begins with the start token
    with pytest.raises(PromptError, match="the continuation 'b' has no token behind its prompt"):
        encode_continuation(Pieces(), "a", "b")  # together they are the one token ab
    with pytest.raises(PromptError, match="the prompt before 'cat' is empty"):
        encode_continuation(Pieces(), "", "cat")


def test_it_agrees_with_lm_evaluation_harness_on_where_a_continuation_begins():
    model = pytest.importorskip("lm_eval.api.model", reason="lm_eval is not installed (pip install 'skald[harness]')")

    class Theirs(model.TemplateLM):
        eot_token_id = loglikelihood_rolling = generate_until = None

        def tok_encode(self, string, add_special_tokens=None, **_):
            return Pieces().encode(string)

        def _loglikelihood_tokens(self, requests, **_):
            return [(context, continuation) for _, context, continuation in requests]

    pairs = [
        (a + x, y + b) for a in ("the", "cat ab") for b in ("cat", "ab", "a cat") for x, y in (("", ""), (" ", " "))
    ]
    found = Theirs().loglikelihood([SimpleNamespace(args=pair) for pair in pairs], disable_tqdm=True)
    assert [tuple(map(tuple, pair)) for pair in found] == [encode_continuation(Pieces(), *pair) for pair in pairs]
