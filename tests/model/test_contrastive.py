"""Contrastive search against its definition in float64, by hidden states of this model and of Hugging Face's."""

import functools

import jax
import numpy as np
import pytest

from model import config as c
from model.decode import chain as chains
from model.decode.chain import Chain, SamplerError, format_chain, parse_chain
from model.decode.contrastive import ContrastiveSearch
from model.decode.generate import DecodingModel, Generator
from model.decode.links.link import Memoryless
from model.decode.parameters import parameterized
from model.decode.prompts import PromptError
from model.decode.sequence import window_start
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT = 11, 24


def config() -> c.Model:
    block = c.Block(c.Attention(4, 2, 4, rope=c.Rope()), c.MLP(32, gated=True))
    return c.Model(16, 16, 64, (c.Stack((block,), 2),), init=c.Init(embedding=0.5, residual=0.3))


build = functools.cache(jax.jit(lambda seed: Transformer(config(), jax.random.key(seed))))


@jax.jit
def read(model, tokens_BT):
    hidden_BTD = model.hidden(tokens_BT)
    return model.logits(hidden_BTD), hidden_BTD


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def reader(seed: int):
    """Logits [T, V] and hidden states [T, D] of a text."""

    def read_text(text: list[int]) -> tuple[np.ndarray, np.ndarray]:
        tokens_BT = np.zeros((1, 64), np.int32)
        tokens_BT[0, : len(text)] = text
        logits_BTV, hidden_BTD = read(build(seed), tokens_BT)
        return np.asarray(logits_BTV[0, : len(text), :VOCAB]), np.asarray(hidden_BTD[0, : len(text)])

    return read_text


def plain_search(read_text, given, k, alpha, limit, stops=(), context=64, rule=lambda text, logits_V: logits_V):
    """Equation 5 of the paper, a candidate after another: (new tokens, how they ended).

    A text that fills its context is read from its newest half on, candidate included.
    """

    def last(text):
        logits, hidden = read_text(text[window_start(len(text), context) :])
        return rule(text, logits[-1].astype(np.float64)), hidden.astype(np.float64)

    text, (logits_V, _) = list(given), last(list(given))
    while len(text) < len(given) + limit:
        if not (logits_V > -np.inf).any():
            return text[len(given) :], "emptied"
        p_V, found = np.exp(logits_V - logits_V.max()), []
        p_V /= p_V.sum()
        for token in [token for token in np.argsort(-p_V, kind="stable")[:k] if logits_V[token] > -np.inf]:
            after, hidden = last([*text, int(token)])
            cosines = hidden[:-1] @ hidden[-1] / np.linalg.norm(hidden[:-1], axis=1) / np.linalg.norm(hidden[-1])
            found.append(((1 - alpha) * p_V[token] - alpha * cosines.max(), int(token), after))
        _, token, logits_V = max(found, key=lambda item: item[0])
        if token in stops:
            return text[len(given) :], "stop"
        text.append(token)
    return text[len(given) :], "length"


@functools.cache
def writer(seed: int = 0, context: int = 64) -> Generator:
    return Generator(build(seed), vocab_size=VOCAB, context=context)


def found(rows) -> list[tuple[list[int], str]]:
    return [(row.tokens, row.finish_reason) for row in rows]


@pytest.mark.parametrize("k", [2, 5, 16])
def test_texts_are_those_of_the_definition(k):
    """Many prompts and settings in one batch, against each searched alone."""
    alphas = [0.0, 0.2, 0.6, 0.9, 1.0, 0.4]
    prompts = [prompt(1 + 3 * index, seed=index) for index in range(len(alphas))]
    batch, ends = [Chain((), ContrastiveSearch(k, alpha)) for alpha in alphas], set()
    for seed, stops in ((1, []), (2, [2]), (3, [1, 4, prompts[0][-1]])):
        rows = writer(seed).generate(prompts, chain=batch, max_new_tokens=13, stop_ids=stops)
        expected = [plain_search(reader(seed), p, k, a, 13, stops) for p, a in zip(prompts, alphas, strict=True)]
        assert found(rows) == expected
        ends |= {(reason, len(tokens)) for tokens, reason in expected}
    assert len(ends) > 4


def test_the_candidate_that_resembles_no_token_before_it_is_taken():
    """What contrastive search is for: greedy falls into a loop here, and it does not."""
    greedy = writer(1).generate([[3]], chain=parse_chain("greedy"), max_new_tokens=40)[0].tokens
    other = writer(1).generate([[3]], chain=parse_chain("contrastive_search(k=4,alpha=0.9)"), max_new_tokens=40)
    assert len(set(greedy[20:])) < len(set(other[0].tokens[20:]))
    none = writer(1).generate([[3]], chain=parse_chain("contrastive_search(k=4,alpha=0)"), max_new_tokens=40)
    assert none[0].tokens == greedy


def test_texts_are_those_that_hugging_face_s_hidden_states_give():
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
    pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
    from test_parity import build as build_pair  # not at the top: it needs torch

    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shape = {"n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 40, "n_inner": None, "vocab_size": VOCAB}
    pair = build_pair({"model_type": "gpt2", "tie_word_embeddings": True, **shape, **ends})

    def read_theirs(text):
        with torch.no_grad():
            out = pair.theirs(torch.tensor([text]), output_hidden_states=True)
        return out.logits[0].numpy(), out.hidden_states[-1][0].numpy()

    prompts = [prompt(length, seed=length) for length in (1, 6, 13)]
    ours = Generator(pair.ours, vocab_size=VOCAB, context=40)
    for k, alpha in ((4, 0.6), (6, 0.3)):
        chain = Chain((), ContrastiveSearch(k, alpha))
        rows = ours.generate(prompts, chain=chain, max_new_tokens=20, stop_ids=[7])
        assert found(rows) == [plain_search(read_theirs, given, k, alpha, 20, [7]) for given in prompts]


def test_probabilities_are_those_of_the_text_that_was_found():
    chain, given = parse_chain("temperature=0.5,contrastive_search=4"), prompt(5)
    (row,) = writer(2).generate([given], chain=chain, max_new_tokens=9)
    logits, _ = reader(2)([*given, *row.tokens])
    for at, token in enumerate(row.tokens):
        logits_V = logits[len(given) - 1 + at].astype(np.float64)
        for scale, stated in ((1, row.log_probabilities[at]), (2, row.chain_log_probabilities[at])):
            assert abs(scale * logits_V[token] - np.log(np.exp(scale * logits_V).sum()) - stated) < 1e-4
    assert row.choice_log_probabilities == [0.0] * 9


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_size_of_a_dispatch_and_the_neighbours_change_nothing(chunk):
    request = {"chain": parse_chain("contrastive_search(k=3,alpha=0.5)"), "max_new_tokens": 10, "stop_ids": [5]}
    prompts = [prompt(length, seed=length) for length in (9, 1, 4)]
    small = Generator(build(4), vocab_size=VOCAB, context=64, chunk=chunk)
    together = small.generate(prompts, **request)
    assert together == writer(4).generate(prompts, **request)
    for given, row in zip(prompts, together, strict=True):
        assert found(small.generate([given], **request)) == found([row])


def test_a_text_that_outgrows_the_context_is_compared_with_what_is_still_seen():
    """Rows whose limits differ, of which some end in the first window; one ends where the context is full."""
    prompts = [prompt(3, seed=1), prompt(9, seed=2), prompt(CONTEXT - 1, seed=3)]
    for new in (CONTEXT - 9, 40):
        chain = parse_chain("contrastive_search(k=3,alpha=0.6)")
        rows = writer(5, CONTEXT).generate(prompts, chain=chain, max_new_tokens=new)
        assert found(rows) == [plain_search(reader(5), given, 3, 0.6, new, context=CONTEXT) for given in prompts]


@pytest.mark.parametrize("sizes", [{"data": 8}, {"tensor": 2, "replica": 2, "data": 2}])
def test_a_mesh_finds_what_one_device_finds(sizes):
    request = {"chain": parse_chain("contrastive_search=3"), "max_new_tokens": 9, "stop_ids": [5]}
    prompts = [prompt(5), prompt(1), prompt(9)]
    with jax.set_mesh(make_mesh(sizes)):
        rows = Generator(build(4), vocab_size=VOCAB, context=64).generate(prompts, **request)
    assert found(rows) == found(writer(4).generate(prompts, **request))


@parameterized
class NoToken(Memoryless):
    """Rules out every token of the history."""

    def filter(self, state, logits_BV, key_B):
        tokens_BS, length_B = state.history.tokens_BS, state.history.length_B
        is_valid_BS = np.arange(tokens_BS.shape[1]) < length_B[:, None]
        seen_BSV = (tokens_BS[:, :, None] == np.arange(logits_BV.shape[1])) & is_valid_BS[:, :, None]
        return jax.numpy.where(seen_BSV.any(1), -np.inf, logits_BV)


def test_links_see_the_text_of_their_candidate_and_may_leave_none(monkeypatch):
    def rule(text, logits_V):
        return np.where(np.isin(np.arange(VOCAB), text), -np.inf, logits_V)

    monkeypatch.setitem(chains.NAMES, NoToken, "no_token")
    chain, given = Chain((NoToken(),), ContrastiveSearch(4, 0.7)), [1, 2]
    for new, stops in ((VOCAB - 2, []), (VOCAB, []), (VOCAB, [4])):
        rows = writer(6).generate([given], chain=chain, max_new_tokens=new, stop_ids=stops)
        expected = plain_search(reader(6), given, 4, 0.7, new, stops, rule=rule)
        assert found(rows) == [expected]
        assert rows[0].emptied_by == ("no_token" if expected[1] == "emptied" else None)


def test_guidance_gives_the_probabilities_and_the_text_its_own_similarities():
    given, other = prompt(6), prompt(3, seed=9)

    def guided(text, logits_V):
        behind = reader(7)([*other, *text[len(given) :]])[0][-1].astype(np.float64)
        ours, theirs = (x - np.log(np.exp(x).sum()) for x in (logits_V, behind))
        return ours + 0.5 * (ours - theirs)

    chain = parse_chain(f"guidance(scale=1.5,prompt={other}),contrastive_search(k=3,alpha=0.5)")
    rows = writer(7).generate([given], chain=chain, max_new_tokens=12)
    assert found(rows) == [plain_search(reader(7), given, 3, 0.5, 12, rule=guided)]


# The door


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("contrastive_search", ["contrastive_search", "nothing", "as contrastive_search=4"]),
        ("contrastive_search=1", ["k of contrastive_search is 1", "from 2"]),
        ("contrastive_search(k=4,alpha=2)", ["alpha of contrastive_search is 2", "from 0 to 1"]),
    ],
)
def test_a_search_that_can_not_be_read_says_why_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize("sampler", ["contrastive_search=4", "top_p=0.9,contrastive_search(k=5,alpha=0.3)"])
def test_a_search_is_written_as_it_is_read(sampler):
    assert format_chain(parse_chain(sampler)) == sampler


def test_what_a_search_does_not_do_is_refused():
    chain = parse_chain("contrastive_search=4")
    with pytest.raises(PromptError, match="2 samples of contrastive_search=4, which finds 1 text; ask for 1 at most"):
        writer().stream([[1]], chain=chain, max_new_tokens=3, samples=2)
    blind = Generator(build(0), vocab_size=VOCAB, context=64)
    blind.models[""] = DecodingModel(build(0), 64)
    blind.models[""].shows_hidden = False
    with pytest.raises(PromptError, match="contrastive_search=4: it compares hidden states, and this model shows none"):
        blind.stream([[1]], chain=chain, max_new_tokens=3)
