"""Links that cut a distribution: what they keep against float64 definitions, Hugging Face's processors, their draws."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decode import draw
from model.decode.chain import Chain, SamplerError, format_chain, parse_chain, stack_chains
from model.decode.links.entropy import Eta, TopH, Typical
from model.decode.links.link import History, LinkState
from model.decode.links.mirostat import Mirostat
from model.decode.links.selection import likeliest_mask, nucleus_mask
from model.decode.links.truncation import Epsilon, MinP, Temperature, TopK, TopNSigma, TopP
from model.decode.links.xtc import XTC

pytestmark = pytest.mark.timeout(120)
ROWS, VOCAB = 4, 8  # smaller vocabularies are rows with tokens that are ruled out
KINDS = {
    MinP: (st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])),),
    Typical: (st.floats(0.01, 1),),
    Epsilon: (st.floats(1e-4, 0.9),),
    Eta: (st.floats(1e-4, 0.9),),
    XTC: (st.sampled_from([0, 1]), st.floats(0.01, 0.5)),
    TopNSigma: (st.floats(0.01, 4),),
    Mirostat: (st.floats(0.01, 4), st.just(0.1)),
    TopH: (st.one_of(st.floats(0.01, 1), st.just(1.0)),),
}
# Ties, and steps that float32 holds exactly and can tell apart after a softmax.
LOGIT = st.one_of(st.integers(-1024, 1024).map(lambda step: step / 128), st.sampled_from([-1.0, 0.0, 1.0, -np.inf]))
LOGITS = st.lists(st.lists(LOGIT, min_size=VOCAB, max_size=VOCAB), min_size=ROWS, max_size=ROWS)


def links_of(kind):
    return st.lists(st.builds(kind, *KINDS[kind]), min_size=ROWS, max_size=ROWS)


@jax.jit
def apply_links(chain, logits_BV, key_B):
    """The chain's last logits for a text's first new token; a chain's numbers are data, so each order compiles once."""
    rows, vocab_size = logits_BV.shape
    history = History(jnp.zeros((rows, 1), jnp.int32), jnp.ones(rows, jnp.int32), jnp.ones(rows, jnp.int32))
    for link in chain.links:
        state = LinkState(history, jnp.full((rows, 1), -1), link.start(history, vocab_size))
        _, logits_BV = link(state, logits_BV, key_B)
    return logits_BV


def applied(chains_B, logits_BV):
    """What each row's own links make of it."""
    chain = stack_chains([Chain(tuple(links)) for links in chains_B])
    key_B = jax.random.split(jax.random.key(0), len(logits_BV))
    return np.asarray(apply_links(chain, np.asarray(logits_BV, np.float32), key_B))


# Definitions in float64, over vocabularies small enough to enumerate


def softmax64(logits):
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def entropy64(probabilities):
    return -sum(p * np.log(p) for p in probabilities if p > 0)


def kept(link, logits):
    """The ids that a link keeps of those whose logits are finite."""
    p, tokens = softmax64(logits), [token for token in range(len(logits)) if logits[token] > -np.inf]
    likeliest_first = sorted(tokens, key=lambda token: (-logits[token], token))
    likeliest = {token for token in tokens if logits[token] == logits.max()}
    match link:
        case TopK(k):
            return set(likeliest_first[: int(k)])
        case TopP(mass):
            return shortest(likeliest_first, p, mass)
        case MinP(share):
            return {token for token in tokens if p[token] >= share * p.max()}
        case Typical(mass):
            distance = {token: abs(-np.log(p[token]) - entropy64(p)) for token in tokens}
            near = {token: round(distance[token], 12) for token in tokens}  # equal logits have equal distances
            return shortest(sorted(tokens, key=lambda token: (near[token], token)), p, mass)
        case Epsilon(epsilon):
            return {token for token in tokens if p[token] > epsilon} or likeliest
        case Eta(epsilon):
            eta = min(epsilon, np.sqrt(epsilon) * np.exp(-entropy64(p)))
            return {token for token in tokens if p[token] > eta} or likeliest
        case TopNSigma(n):
            return {token for token in tokens if logits[token] >= logits.max() - n * np.std(logits[tokens])}
        case Mirostat(tau, _):
            return {token for token in tokens if -np.log2(p[token]) <= 2 * tau} | likeliest
        case XTC(probability, threshold):
            excluded = [token for token in likeliest_first if p[token] >= threshold][:-1] if probability else []
            return set(tokens) - set(excluded)
        case TopH(alpha):
            best = likeliest_first if alpha >= 1 else likeliest_first[:1]
            for count in range(1, len(tokens) + 1):
                chosen = p[likeliest_first[:count]]
                if entropy64(chosen / chosen.sum()) <= alpha * entropy64(p):
                    best = max(best, likeliest_first[:count], key=len)
            return set(best)


def shortest(order, p, mass):
    """The first tokens of an order whose probability is `mass` or more; all if there is nothing to cut."""
    count = next((n for n in range(1, len(order) + 1) if p[order[:n]].sum() >= mass), len(order))
    return set(order if mass >= 1 else order[:count])


def reference(links, logits_V, nudge=0.0):
    """What is left of logits after each link's definition, in order."""
    logits = np.array(logits_V, np.float64) * (1 + nudge)
    for link in links:
        if not np.isfinite(logits).any():
            break
        if isinstance(link, Temperature):
            logits = logits / link.value
        else:
            keep = kept(link, logits)
            logits = np.array([logit if token in keep else -np.inf for token, logit in enumerate(logits)])
    return logits


def nudged(link, nudge):
    """The link with all numbers a little greater or smaller, within their ranges."""
    if isinstance(link, TopK):
        return link
    numbers = {name: float(np.float32(value)) for name, value in vars(link).items()}
    changed = {name: value * (1 + nudge) for name, value in numbers.items() if value not in (0, 1)}
    return type(link)(**{**numbers, **changed})


def check(chains_B, logits_BV):
    """Compares each row with its definitions, but where rounding decides: numbers 1e-5 greater or smaller tell."""
    found_BV = applied(chains_B, logits_BV)
    assert not np.isnan(found_BV).any()
    for found_V, links, logits_V in zip(found_BV, chains_B, logits_BV, strict=True):
        logits_V = np.asarray(logits_V, np.float32)
        assert np.isfinite(found_V).any() == np.isfinite(logits_V).any(), "a token stays"
        expected = reference([nudged(link, 0) for link in links], logits_V)
        others = [
            reference([nudged(link, a) for link in links], logits_V, b) for a in (-1e-5, 1e-5) for b in (-1e-5, 1e-5)
        ]
        if all(np.array_equal(np.isfinite(other), np.isfinite(expected)) for other in others):
            np.testing.assert_allclose(found_V, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_link_keeps_what_its_definition_does_in_each_row_with_the_rows_own_numbers(kind, data):
    check([[link] for link in data.draw(links_of(kind))], data.draw(LOGITS))


@pytest.mark.parametrize("order", range(4))
def test_links_in_any_order_leave_what_their_definitions_leave_one_after_another(order):
    choice = random.Random(order)
    draws = np.random.default_rng(order)
    makers = [
        lambda: Temperature(draws.uniform(0.3, 3)), lambda: TopK(int(draws.integers(1, 9))),
        lambda: TopP(draws.uniform(0.3, 1)), lambda: MinP(draws.uniform(0, 0.3)),
        lambda: Typical(draws.uniform(0.3, 1)),
        lambda: Epsilon(draws.uniform(0.001, 0.2)), lambda: Eta(draws.uniform(0.001, 0.5)),
        lambda: XTC(draws.integers(0, 2), draws.uniform(0.05, 0.5)), lambda: TopNSigma(draws.uniform(0.5, 3)),
        lambda: Mirostat(draws.uniform(0.5, 3), 0.1), lambda: TopH(draws.uniform(0.3, 1)),
    ]  # fmt: skip
    chosen = choice.sample(makers, 4)
    for _ in range(20):
        logits_BV = draws.normal(0, 2, (ROWS, VOCAB)).astype(np.float32)
        check([[make() for make in chosen] for _ in range(ROWS)], logits_BV)


@pytest.mark.parametrize("size", [64, 200])
@pytest.mark.parametrize("ties", [True, False])
def test_sets_chosen_without_a_sort_are_those_of_a_sort(size, ties):
    draws = np.random.default_rng(size)
    logits_BV = draws.normal(0, 2, (64, size)).astype(np.float32)
    logits_BV[::2] = np.round(logits_BV[::2]) if ties else logits_BV[::2]  # rows with ties beside rows without
    probability_BV = np.asarray(jax.nn.softmax(logits_BV))
    count_B, p_B = draws.integers(1, size + 2, 64), draws.uniform(0.01, 0.999, 64).astype(np.float32)
    likeliest_BV, nucleus_BV = likeliest_mask(logits_BV, count_B), nucleus_mask(probability_BV, p_B)
    for row, probability_V in enumerate(probability_BV.astype(np.float64)):
        order = np.lexsort((np.arange(size), -logits_BV[row]))
        assert set(np.flatnonzero(likeliest_BV[row])) == set(order[: count_B[row]])
        mass = np.cumsum(probability_V[order])
        assert np.abs(mass - p_B[row]).min() > 1e-6, "rounding decides nothing here"
        assert set(np.flatnonzero(nucleus_BV[row])) == set(order[: 1 + (mass < p_B[row]).sum()])


@pytest.mark.parametrize(
    "name, value, link",
    [
        ("MinPLogitsWarper", 0.05, MinP(0.05)),
        ("TypicalLogitsWarper", 0.9, Typical(0.9)),
        ("TypicalLogitsWarper", 0.2, Typical(0.2)),
        ("EpsilonLogitsWarper", 3e-3, Epsilon(3e-3)),
        ("EpsilonLogitsWarper", 0.9, Epsilon(0.9)),
        ("EtaLogitsWarper", 3e-3, Eta(3e-3)),
        ("EtaLogitsWarper", 0.3, Eta(0.3)),
    ],
)
def test_links_do_what_hugging_face_does(name, value, link):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    draws = np.random.default_rng(5)
    logits_BV = draws.normal(0, 3, (16, 500)).astype(np.float32)
    logits_BV[draws.random((16, 500)) < 0.3] = -np.inf
    expected = getattr(transformers, name)(value)(None, torch.tensor(logits_BV)).numpy()
    np.testing.assert_array_equal(applied([[link]] * 16, logits_BV), expected)


# Draws


@functools.partial(jax.jit, static_argnames="tokens")
def draw_tokens(texts, requests, logits_BV, tokens):
    def step(texts, _):
        texts, drawn = draw.draw(texts, requests, logits_BV)
        return texts, (drawn.token, drawn.chain_log_probability)

    return jax.lax.scan(step, texts, None, length=tokens)[1]


def drawn(chains_B, logits_V, tokens):
    """Draws of every row from a model that always says the same: tokens and their log-probabilities, both [B, T]."""
    rows = len(chains_B)
    zeros, ones = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32)
    history = History(jnp.zeros((rows, tokens + 1), jnp.int32), ones, ones)
    chain = stack_chains(chains_B)
    seed_BW = jnp.tile(jnp.array([0, 5], jnp.uint32), (rows, 1))
    limit_B = zeros + tokens + 2
    requests = draw.Requests(seed_BW, jnp.arange(rows), limit_B, limit_B, jnp.full((rows, 1), -1), chain)
    padded_V = jnp.pad(jnp.asarray(logits_V, jnp.float32), (0, 3), constant_values=-jnp.inf)
    logits_BV = jnp.tile(padded_V, (rows, 1))

    texts = draw.start(history, chain, zeros > 0, len(logits_V))
    drawn_TB = draw_tokens(texts, requests, logits_BV, tokens)
    return [np.asarray(values).T for values in drawn_TB]


@pytest.mark.parametrize(
    "sampler", ["min_p=0.2,typical=0.7", "top_h=0.6,eta=0.1", "top_nsigma=1.5", "xtc(probability=0.3,threshold=0.15)"]
)
def test_draws_follow_the_distribution(sampler):
    """XTC's is a mixture: its coin is independent of the draw of the token."""
    logits_V, draws = np.log([0.05, 0.3, 0.2, 0.02, 0.25, 0.08, 0.1]), 20_000
    chain = parse_chain(sampler)
    counts = np.bincount(drawn([chain] * draws, logits_V, 1)[0][:, 0], minlength=len(logits_V))
    if isinstance(chain.links[0], XTC):
        acts = softmax64(reference([XTC(1, chain.links[0].threshold)], logits_V))
        expected = draws * (0.3 * acts + 0.7 * softmax64(logits_V))
        assert (acts > 0).sum() == 5, "of three choices above the threshold one stays"
    else:
        expected = draws * softmax64(reference(chain.links, logits_V))
    assert counts[expected == 0].sum() == 0
    some = expected > 0
    assert ((counts - expected)[some] ** 2 / expected[some]).sum() < 22.5  # 6 degrees of freedom: once in 1,000 seeds


def test_mirostat_follows_its_definition_over_many_tokens_until_the_mean_surprise_is_tau():
    """Against a float64 simulation fed with the tokens that were drawn."""
    logits_V = np.random.default_rng(3).normal(0, 1.2, 64).astype(np.float32)
    surprise = -np.log2(softmax64(logits_V.astype(np.float64)))
    links = [Mirostat(2.0, 0.1), Mirostat(3.0, 0.1), Mirostat(3.0, 0.5), Mirostat(4.0, 0.05)]
    tokens_BT, log_probability_BT = drawn([Chain((link,)) for link in links], logits_V, 2000)
    assert surprise.min() < 2 and (2.0**-surprise * surprise).sum() > 4, "tau can be reached"
    for link, tokens, log_probabilities in zip(links, tokens_BT, log_probability_BT, strict=True):
        mu = 2 * link.tau
        for token, log_probability in zip(tokens, log_probabilities, strict=True):
            keep = (surprise <= mu) | (surprise == surprise.min())
            expected = -surprise[token] * np.log(2) - np.log((2.0 ** -surprise[keep]).sum())
            near = np.abs(surprise - mu).min() < 1e-3  # rounding may decide
            assert near or (keep[token] and abs(log_probability - expected) < 1e-3)
            mu -= link.eta * (surprise[token] - link.tau)
        assert abs(surprise[tokens[100:]].mean() - link.tau) < 0.05


# The door


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("min_p=.05,typical=0.90", "min_p=0.05,typical=0.9"),
        ("epsilon=3e-4,eta=3e-4", "epsilon=0.0003,eta=0.0003"),
        ("xtc(threshold=0.2,probability=0.5)", "xtc(probability=0.5,threshold=0.2)"),
        ("xtc(probability=0.5,threshold=0.1)", "xtc=0.5"),
        ("mirostat(tau=5,eta=0.1)", "mirostat"),
        ("mirostat(tau=3)", "mirostat=3"),
        ("top_nsigma=1.0,top_h=0.4", "top_nsigma=1,top_h=0.4"),
    ],
)
def test_links_are_read_and_written(text, canonical):
    assert format_chain(parse_chain(text)) == canonical
    assert parse_chain(canonical) == parse_chain(text)


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("min_p=1.5", ["min_p is 1.5", "from 0 to 1"]),
        ("typical=0", ["typical is 0", "above 0"]),
        ("epsilon=2", ["epsilon is 2", "up to 1"]),
        ("eta=0", ["eta is 0", "above 0"]),
        ("xtc", ["probability of xtc is nothing", "from 0 to 1"]),
        ("xtc(probability=0.5,threshold=0.6)", ["threshold of xtc is 0.6", "up to 0.5"]),
        ("top_nsigma=0", ["top_nsigma is 0", "above 0"]),
        ("mirostat(tau=-1)", ["tau of mirostat is -1", "bits above 0"]),
        ("mirostat(eta=0)", ["eta of mirostat is 0", "above 0"]),
        ("mirostat(m=100)", ["no parameter 'm'", "tau, eta"]),
        ("top_h=1.1", ["top_h is 1.1", "up to 1"]),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    said = str(error.value)
    assert "\n" not in said
    assert all(part in said for part in parts), said
