"""Strategies that write a text with several rows: beam search against its definition in float64 and against Hugging
Face, best-of-n against the texts that Sample writes; in batches, on meshes, past the context."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model.decode import chain as chains
from model.decode.chain import Chain, SamplerError, format_chain, parse_chain
from model.decode.generate import Generator, jitted_decode
from model.decode.links.link import Memoryless
from model.decode.loop import DecodeState
from model.decode.parameters import parameterized
from model.decode.prompts import PromptError
from model.decode.sequence import SequenceState
from model.decode.sources import branch_caches
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT = 6, 32


def config() -> c.Model:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    return c.Model(8, 16, CONTEXT, (c.Stack((block,), 1),), init=c.Init(embedding=0.3, residual=0.3))


build = functools.cache(jax.jit(lambda seed: Transformer(config(), jax.random.key(seed))))
read = jax.jit(lambda model, tokens_BT: model.logits(model.hidden(tokens_BT)))


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


class Reader:
    """A model's log-probabilities in float64, from whole texts. `context`: a text that fills it is read from its newest
    half on. `rule` maps a text's logits to others, as a link does."""

    def __init__(self, seed: int, given: list[int], context: int = CONTEXT, rule=None):
        self.model, self.given, self.context, self.rule = build(seed), given, context, rule

    def __call__(self, texts: list[tuple[int, ...]]) -> dict[tuple[int, ...], np.ndarray]:
        """Of the successors of new tokens; all of these texts have the same length."""
        first, size = 0, len(self.given)
        while size < len(self.given) + len(texts[0]):
            size += 1
            first = size - self.context // 2 if size - first == self.context else first
        tokens = np.zeros((8 if len(texts) <= 8 else 128, CONTEXT), np.int32)  # two programs
        for row, text in enumerate(texts):
            seen = [*self.given, *text][first:]
            tokens[row, : len(seen)] = seen
        logits = np.asarray(read(self.model, tokens), np.float64)[: len(texts), len(seen) - 1, :VOCAB]
        if self.rule:
            logits = [self.rule([*self.given, *text], row) for text, row in zip(texts, logits, strict=True)]
        return {text: log_softmax(row) for text, row in zip(texts, logits, strict=True)}


def log_softmax(logits_V):
    return logits_V - np.log(np.exp(logits_V - logits_V.max()).sum()) - logits_V.max()


def plain_search(reader, width, limit, stops=(), length_penalty=1.0, early_stopping=False, groups=1, diversity=0.5):
    """Beam.__doc__ in Python, with lists of texts and sums, sorted: each group's [(score, text)], the best first."""
    size = width // groups
    beams, ended, done = [[((), 0.0)]] + [[((), 0.0)] for _ in range(groups - 1)], [[] for _ in range(groups)], set()
    for tokens in range(1, limit + 1):
        chosen = []
        for group in sorted(set(range(groups)) - done):
            after = reader([text for text, _ in beams[group]])
            candidates = [
                (total + after[text][token], (*text, token), diversity * chosen.count(token) * (token not in stops))
                for text, total in beams[group]
                for token in range(VOCAB)
                if after[text][token] > -np.inf
            ]
            candidates.sort(key=lambda item: -(item[0] - item[2]))
            for total, text, _ in candidates[:size]:
                if text[-1] in stops or tokens == limit:
                    ended[group].append((total / tokens**length_penalty, text))
            ended[group] = sorted(ended[group], key=lambda item: -item[0])[:size]
            beams[group] = [(text, total) for total, text, _ in candidates if text[-1] not in stops][:size]
            chosen += [text[-1] for text, _ in beams[group]]
            best = max((total for _, total in beams[group]), default=-np.inf)
            length = limit if early_stopping == "never" and length_penalty > 0 else tokens
            worst = ended[group][-1][0] if len(ended[group]) == size else -np.inf
            if best <= worst * length**length_penalty or (early_stopping is True and worst > -np.inf):
                done.add(group)
    return ended


def without_stop(text, stops):
    return list(text[:-1] if text[-1] in stops else text)


def before_stop(text, stops):
    return list(itertools.takewhile(lambda token: token not in stops, text))


@functools.cache
def writer(seed: int = 0, context: int = CONTEXT) -> Generator:
    return Generator(build(seed), vocab_size=VOCAB, context=context)


# Beam search


@pytest.mark.parametrize("width, groups", [(1, 1), (3, 1), (6, 3)])
def test_beams_are_those_of_the_definition(width, groups):
    """Many prompts and settings in one batch, against each searched alone."""
    penalties, stopping = (0.0, 1.0, 2.0, -1.0), (False, True, "never")
    settings = [
        {"length_penalty": lp, "early_stopping": early, "groups": groups, "diversity": 0.5 + index % 3}
        for index, (lp, early) in enumerate(itertools.product(penalties, stopping))
    ]
    prompts = [prompt(1 + index, seed=index) for index in range(len(settings))]
    batch = [Chain((), chains.Beam(width=width, **setting)) for setting in settings]
    ended_early = 0
    for stops, seed in (([], 1), ([2], 2), ([1, 4], 3)):
        found = writer(seed).generate(prompts, chain=batch, max_new_tokens=7, stop_ids=stops, samples=width)
        for index, setting in enumerate(settings):
            by_group = plain_search(Reader(seed, prompts[index]), width, 7, stops, **setting)
            expected = [text for rank in zip(*by_group, strict=True) for text in sorted(rank, key=lambda x: -x[0])]
            rows = found[index * width : (index + 1) * width]
            assert [row.tokens for row in rows] == [without_stop(text, stops) for _, text in expected]
            for row, (score, text) in zip(rows, expected, strict=True):
                stopped = text[-1] in stops
                assert row.finish_reason == ("stop" if stopped else "length")
                total = score * len(text) ** setting["length_penalty"]
                assert stopped or abs(sum(row.chain_log_probabilities) - total) < 1e-4
                ended_early += len(text) < 7
    assert ended_early > 5


@pytest.mark.parametrize("length_penalty", [0.0, 1.3])
def test_a_search_as_wide_as_all_texts_finds_them_all_in_order(length_penalty):
    """85 texts of 3 tokens out of 4, or fewer and the end: enumerated."""
    given, stop, reader = [1, 2, 4, 0], 3, Reader(5, [1, 2, 4, 0])
    totals = {(): 0.0}
    complete, vocab = {}, 5
    narrow = Generator(build(5), vocab_size=vocab, context=CONTEXT)
    for tokens in range(1, 4):
        after = {text: log_softmax(np.log(np.exp(row[:vocab]))) for text, row in reader(list(totals)).items()}
        longer = {(*t, i): total + after[t][i] for t, total in totals.items() for i in range(vocab)}
        ends = {text: total for text, total in longer.items() if text[-1] == stop or tokens == 3}
        complete |= {text: total / tokens**length_penalty for text, total in ends.items()}
        totals = {text: total for text, total in longer.items() if text[-1] != stop}
    expected = sorted(complete, key=lambda text: -complete[text])
    chain = Chain((), chains.Beam(width=128, length_penalty=length_penalty, early_stopping="never"))
    rows = narrow.generate([given], chain=chain, max_new_tokens=3, stop_ids=[stop], samples=len(expected))
    assert len(expected) == 85
    assert [row.tokens for row in rows] == [without_stop(text, [stop]) for text in expected]
    (more,) = narrow.generate([given], chain=chain, max_new_tokens=3, stop_ids=[stop], samples=86)[-1:]
    assert (more.tokens, more.finish_reason, more.emptied_by) == ([], "emptied", format_chain(chain))


@pytest.fixture(scope="module")
def pair():
    """A random GPT-2 of theirs, and ours with its weights."""
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
    pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
    from test_parity import build  # not at the top: it needs torch

    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shape = {"n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 40, "n_inner": None, "vocab_size": 61}
    return build({"model_type": "gpt2", "tie_word_embeddings": True, **shape, **ends})


def test_beams_are_those_of_hugging_face(pair):
    """Theirs prompt by prompt, ours all at once; stop ids that stand in their texts make texts of many lengths."""
    import torch  # heavy, and not everywhere

    prompts = [np.random.default_rng(seed).integers(0, 61, 1 + 3 * seed).tolist() for seed in range(4)]
    ours, lengths = Generator(pair.ours, vocab_size=61, context=40), set()

    def theirs(given, samples, **settings):
        rows = pair.theirs.generate(
            torch.tensor([given]), attention_mask=torch.ones(1, len(given), dtype=torch.long), do_sample=False,
            num_beams=4, pad_token_id=0, max_new_tokens=14, num_return_sequences=samples, **settings,
        )  # fmt: skip
        return rows[:, len(given) :].tolist()

    free = [theirs(given, 1)[0] for given in prompts]
    stops = [free[0][7], free[2][10], free[3][12]]
    for length_penalty, early, stop_ids, samples in (
        (1.0, False, None, 2), (1.0, False, stops[:1], 4), (0.0, "never", stops, 3), (2.0, False, stops, 1),
        (2.0, "never", stops, 4), (1.0, True, stops, 3), (-1.0, False, stops, 2),
    ):  # fmt: skip
        chain = Chain((), chains.Beam(width=4, length_penalty=length_penalty, early_stopping=early))
        rows = ours.generate(prompts, chain=chain, stop_ids=stop_ids or [], max_new_tokens=14, samples=samples)
        settings = {"length_penalty": length_penalty, "early_stopping": early, "eos_token_id": stop_ids}
        expected = [text for given in prompts for text in theirs(given, samples, **settings)]
        for row, text in zip(rows, expected, strict=True):
            assert row.tokens == (before_stop(text, stop_ids) if stop_ids else text)
            lengths.add(len(row.tokens))
    assert len(lengths) > 5


@pytest.mark.parametrize("sampler", ["beam(width=4,groups=2)", "best_of=3"])
def test_a_text_does_not_depend_on_its_neighbours(sampler):
    prompts = [prompt(length, seed=length) for length in (7, 1, 16)]
    request = {"chain": parse_chain(sampler), "max_new_tokens": 14, "stop_ids": [5], "seed": 3, "samples": 2}
    together = writer(4).generate(prompts, **request)
    for index, one in enumerate(prompts):
        alone = writer(4).generate([one], **request)
        assert [row.tokens for row in alone] == [row.tokens for row in together[2 * index : 2 * index + 2]]


def test_the_size_of_a_dispatch_changes_no_search():
    request = {"chain": parse_chain("beam=3"), "max_new_tokens": 14, "stop_ids": [5], "samples": 3}
    small = Generator(build(4), vocab_size=VOCAB, context=CONTEXT, chunk=5)
    found = small.generate([prompt(3), prompt(9)], **request)
    assert found == writer(4).generate([prompt(3), prompt(9)], **request)
    pieces = list(small.stream([prompt(3)], **request))
    assert all(piece.tokens == [] for row in pieces[:-1] for piece in row), "a text is known at its end"


def test_a_search_that_outgrows_the_context_goes_on_from_each_beams_newest_half():
    chain = parse_chain("beam(width=3,length_penalty=2,early_stopping=never)")
    prompts = [prompt(9, seed=2), prompt(1, seed=1)]
    rows = writer(6, context=12).generate(prompts, chain=chain, max_new_tokens=24, stop_ids=[0], samples=3)
    for index, given in enumerate(prompts):
        (expected,) = plain_search(Reader(6, given, context=12), 3, 24, [0], 2, "never")
        assert [row.tokens for row in rows[3 * index : 3 * index + 3]] == [without_stop(t, [0]) for _, t in expected]
    assert max(len(row.tokens) for row in rows) == 24


@pytest.mark.parametrize(
    "sizes, sampler",
    [({"data": 8}, "beam=3"), ({"tensor": 2, "replica": 2, "data": 2}, "beam=3"), ({"data": 8}, "best_of=3")],
)
def test_a_mesh_finds_what_one_device_finds(sizes, sampler):
    request = {"chain": parse_chain(sampler), "max_new_tokens": 9, "stop_ids": [5], "samples": 2, "seed": 1}
    prompts = [prompt(5), prompt(1), prompt(9)]
    with jax.set_mesh(make_mesh(sizes)):
        found = Generator(build(4), vocab_size=VOCAB, context=CONTEXT).generate(prompts, **request)
    assert [row.tokens for row in found] == [row.tokens for row in writer(4).generate(prompts, **request)]


# Links see the text of the beam that they belong to


@parameterized
class NoToken(Memoryless):
    """Rules out every token of the history."""

    def filter(self, state, logits_BV, key_B):
        tokens_BS, length_B = state.history.tokens_BS, state.history.length_B
        valid_BS = jnp.arange(tokens_BS.shape[1]) < length_B[:, None]
        seen_BSV = (tokens_BS[:, :, None] == jnp.arange(logits_BV.shape[1])) & valid_BS[:, :, None]
        return jnp.where(seen_BSV.any(1), -jnp.inf, logits_BV)


@parameterized
class NoRememberedToken:
    """Rules out every new token of the history, by a memory of its own."""

    def start(self, history, vocab_size):
        return jnp.zeros((len(history.length_B), 8), bool)

    def __call__(self, state, logits_BV, key_B):
        history = state.history
        last_B = jnp.take_along_axis(history.tokens_BS, history.length_B[:, None] - 1, 1)[:, 0]
        is_new_B = history.length_B > history.prompt_B
        seen_BV = state.memory | ((jnp.arange(logits_BV.shape[1]) == last_B[:, None]) & is_new_B[:, None])
        return seen_BV, jnp.where(seen_BV, -jnp.inf, logits_BV)


@pytest.mark.parametrize("link, since", [(NoToken(), 0), (NoRememberedToken(), 2)])
def test_history_and_memories_go_with_their_beam(link, since, monkeypatch):
    def rule(text, logits_V):
        return np.where(np.isin(np.arange(VOCAB), text[since:]), -np.inf, logits_V)

    monkeypatch.setitem(chains.NAMES, type(link), "no_token")
    monkeypatch.setitem(chains.LINKS, "no_token", type(link))
    chain, given = Chain((link,), chains.Beam(width=3)), [1, 1]
    room = VOCAB - len({*given[since:]})
    rows = writer(7, context=5).generate([given], chain=chain, max_new_tokens=room, samples=3)
    ((expected),) = plain_search(Reader(7, given, context=5, rule=rule), 3, room)
    assert [row.tokens for row in rows] == [list(text) for _, text in expected]
    (row,) = writer(7).generate([given], chain=chain, max_new_tokens=room + 1)
    assert (row.tokens, row.finish_reason, row.emptied_by) == ([], "emptied", "no_token")
    rows = writer(7).generate([given], chain=chain, max_new_tokens=room + 1, stop_ids=[2], samples=3)
    assert rows[0].finish_reason == "stop", "what has ended before is found"


# Best of n


@pytest.mark.parametrize("score", ["mean", "sum"])
@pytest.mark.parametrize("links", ["", "temperature=2,"])
def test_the_best_of_n_is_the_likeliest_of_the_texts_that_sampling_writes(score, links):
    request = {"max_new_tokens": 12, "seed": 11, "stop_ids": [0]}
    given, n, samples = prompt(4), 5, 3
    drawn = writer(8).generate([given], chain=parse_chain(links[:-1]), samples=n * samples, **request)
    best = writer(8).generate(
        [given], chain=parse_chain(f"{links}best_of(n={n},score={score})"), samples=samples, **request
    )
    assert len({row.finish_reason for row in drawn}) == 2
    for index, found in enumerate(best):
        texts = drawn[n * index : n * index + n]
        scores = []
        for row in texts:
            text = [*row.tokens, *[0] * (row.finish_reason == "stop")]
            reader = Reader(8, given)
            gains = [reader([tuple(text[:at])])[tuple(text[:at])][token] for at, token in enumerate(text)]
            scores.append(sum(gains) / (len(text) if score == "mean" else 1))
        assert found == texts[int(np.argmax(scores))]


# Cost


def lowered(sampler: str) -> str:
    rows = [SequenceState([1, 2, 3], parse_chain(sampler), 0, 0, prompt=3, limit=20) for _ in range(4)]
    own, batch = writer().models[""], writer().batch(rows, [])
    cache = branch_caches([own.prefill(batch.branches[0])], [batch.branches[0].last_B])
    state = DecodeState(cache, writer().texts(rows, batch))
    decode = jitted_decode((own.structure,))
    return decode.lower([own.leaves], state, batch.requests, np.int32(4), vocab_size=VOCAB).as_text()


def test_the_programs_of_single_rows_gather_no_cache():
    def gathers(sampler: str) -> int:
        return lowered(sampler).count("stablehlo.gather")

    assert gathers("") == gathers("greedy") == gathers("best_of=4") < gathers("beam=4") - 4


def test_a_new_length_penalty_compiles_nothing():
    programs = []
    for sampler in ("beam(width=2,length_penalty=0.3)", "beam(width=2,length_penalty=2,early_stopping=never)"):
        writer().generate([prompt(3)], chain=parse_chain(sampler), max_new_tokens=4)
        programs.append(jitted_decode((writer().models[""].structure,))._cache_size())
    assert programs[0] == programs[1]


# The door


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("beam", ["beam", "nothing"]),
        ("beam=0", ["width of beam is 0", "from 1"]),
        ("beam(width=4,early_stopping=maybe)", ["early_stopping of beam is maybe", "true, false or never"]),
        ("beam(width=4,length_penalty=9)", ["length_penalty of beam is 9", "from -5 to 5"]),
        ("beam(width=5,groups=2)", ["width 5 is not divisible by groups 2"]),
        ("best_of(n=4,score=best)", ["score of best_of is best", "mean or sum"]),
        ("best_of=4,top_k=3", ["'top_k=3' after best_of", "must come last"]),
    ],
)
def test_a_strategy_that_can_not_be_read_says_why_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    "sampler",
    [
        "beam=4",
        'beam(width=4,length_penalty=0.6,early_stopping="never")',
        "beam(width=4,early_stopping=true)",
        "beam(width=6,groups=3,diversity=1)",
        "best_of=4",
        'best_of(n=4,score="sum")',
    ],
)
def test_strategies_are_written_as_they_are_read(sampler):
    assert format_chain(parse_chain(sampler)) == sampler
    assert parse_chain(sampler.replace('"', "")) == parse_chain(sampler)


def test_more_samples_than_a_search_finds_are_refused():
    with pytest.raises(PromptError, match="5 samples of beam=4, which finds 4 texts; ask for 4 at most"):
        writer().stream([[1]], chain=parse_chain("beam=4"), max_new_tokens=3, samples=5)
