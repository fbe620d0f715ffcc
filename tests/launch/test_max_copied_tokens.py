"""The link max_copied_tokens: what is written obeys it by enumeration, in every way to write, beside a grammar, too."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data.documents import Documents
from data.index.training_index import SourceIndex, TrainingIndex
from data.plans import SavedPlans
from data.splits import Split
from data.tokenizers.byte_level import Bytes
from launch.inference.matchers import Matchers
from launch.inference.text import TextGenerator, check_samples
from model import config as c
from model.decode.chain import SamplerError, parse_chain
from model.decode.constraint import find_constraints
from model.decode.engine import Engine, Request
from model.decode.generate import Generator
from model.decode.prompts import PromptError
from model.decode.speculation import PromptLookup
from model.transformer import Transformer
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(120)
VOCAB, CONTEXT, NEW, SAMPLES = 6, 32, 34, 2
PROMPTS = [[0, 1, 2], [5], [3, 3, 1, 4], [2, 2, 1, 0, 5]]


def new_index(folder, documents) -> TrainingIndex:
    """The index of documents of ids."""
    offsets = np.cumsum([0, *map(len, documents)])
    stored = Documents(np.concatenate(documents).astype(np.uint16), offsets, np.diff(offsets), False)
    manifest = {"source_path": "corpus", "files": ["corpus"], "records_by_file": [len(documents)]}
    store = SimpleNamespace(folder=folder, manifest=manifest)
    return TrainingIndex([SourceIndex(Split("own", store, stored, SavedPlans(folder / "plans", [])))])


def new_model(vocab_size: int) -> Transformer:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    config = c.Model(vocab_size, 16, CONTEXT, (c.Stack((block,), 1),), init=c.Init(embedding=0.7, residual=0.3))
    return jax.jit(lambda: Transformer(config, jax.random.key(0)))()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return new_model(VOCAB)


@pytest.fixture(scope="module")
def free(model) -> list:
    """What the model writes without the link, prompt by prompt."""
    return write(Generator(model, vocab_size=VOCAB, context=CONTEXT), "")


@pytest.fixture(scope="module")
def documents(free) -> list[list[int]]:
    """A training text which the model knows by heart: half of what it writes."""
    return [PROMPTS[row // SAMPLES] + text.tokens for row, text in enumerate(free) if row % SAMPLES == 0]


@pytest.fixture(scope="module")
def matchers(tmp_path_factory, documents) -> Matchers:
    index = new_index(tmp_path_factory.mktemp("index"), documents)
    return Matchers(SimpleNamespace(vocab_size=VOCAB), lambda: index)


@pytest.fixture(scope="module")
def generator(model, matchers) -> Generator:
    return Generator(model, vocab_size=VOCAB, context=CONTEXT, matcher_maker=matchers)


def write(generator: Generator, sampler: str, seed: int = 0) -> list:
    chain = parse_chain(sampler)
    return generator.generate(PROMPTS, chain=chain, max_new_tokens=NEW, seed=seed, samples=SAMPLES)


def longest_copies(documents: list[list[int]], texts: list[list[int]]) -> list[int]:
    """Of each text the tokens of the longest span that ends in what is new and stands in a document."""
    spans = {tuple(d[start:stop]) for d in documents for stop in range(len(d) + 1) for start in range(stop)}
    longest = []
    for row, new in enumerate(texts):
        prompt = PROMPTS[row // SAMPLES]
        text = prompt + new
        ends = range(len(prompt) + 1, len(text) + 1)
        found = [stop - start for stop in ends for start in range(stop) if tuple(text[start:stop]) in spans]
        longest.append(max(found, default=0))
    return longest


def test_no_written_text_copies_more(generator, documents, free):
    """Prompts count as context. The context is 32 tokens, which the longest text outgrows."""
    freely = longest_copies(documents, [text.tokens for text in free])
    assert max(freely) == NEW + max(map(len, PROMPTS)) > CONTEXT
    for most in (1, 2, 4, 8):
        texts = write(generator, f"max_copied_tokens={most}")
        assert max(longest_copies(documents, [text.tokens for text in texts])) == most
        assert {text.emptied_by for text in texts} <= {None, f"max_copied_tokens={most}"}
        assert most == 1 or all(len(text.tokens) == NEW for text in texts)


def test_a_bound_that_no_text_reaches_changes_nothing(generator, free):
    """The longest of all texts has 39 tokens."""
    for bounded, text in zip(write(generator, "max_copied_tokens=40"), free, strict=True):
        assert bounded.tokens == text.tokens
        assert np.abs(np.subtract(bounded.log_probabilities, text.log_probabilities)).max() < 1e-5


@pytest.mark.parametrize("options", [{"draft": PromptLookup(), "drafts": 4}, {"invariant": True}])
def test_an_engine_writes_the_same(model, generator, matchers, free, options):
    """Texts with the link are given no drafts; the one beside them is."""
    alone = [text.tokens for text in write(generator, "max_copied_tokens=3")[:3]]
    engine = Engine(model, vocab_size=VOCAB, context=CONTEXT, slots=4, pages=40, matcher_maker=matchers, **options)
    chain, places = parse_chain("max_copied_tokens=3"), ((0, 0), (0, 1), (1, 0))
    requests = [Request(PROMPTS[prompt], chain, NEW, 0, sample) for prompt, sample in places]
    written = [[] for _ in range(4)]
    for number, piece in engine.run([*requests, Request(PROMPTS[0], parse_chain(""), NEW)]):
        written[number] += piece.tokens
    assert written == [*alone, free[0].tokens]


def test_ends_of_a_text_are_never_ruled_out(tmp_path):
    """Behind 0, 1 stands 2 alone: it ends a text by its chain, or as the tokenizer's own end."""
    index = new_index(tmp_path, [[3, 0, 1, 2, 4]])
    (link,) = parse_chain("max_copied_tokens=2").links
    for stop_ids, allowed in (([], [0, 1, 3, 4, 5]), ([2, -1], [0, 1, 2, 3, 4, 5])):
        matcher = Matchers(SimpleNamespace(vocab_size=VOCAB), lambda: index)(link, [3, 0, 1], stop_ids)
        bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == allowed and not matcher.finished


def test_it_stands_beside_a_grammar_each_in_its_place(tmp_path):
    """Bytes: the grammar gives words of three letters, of which those that the training text has are not written."""
    pytest.importorskip("llguidance", reason="the optional package llguidance (skald[grammar]) is not installed")
    known = "bad abc aab dad cab bca"
    index = new_index(tmp_path, [list(known.encode())])
    writer = TextGenerator(new_model(256), Bytes(), CONTEXT, (), lambda: index)
    for most, copies in ((2, False), (9, True)):
        sampler = f'regex="[abcd]{{3}}",top_k=3,max_copied_tokens={most}'
        texts = writer.generate(["x"], sampler=sampler, max_new_tokens=9, samples=64)
        finished = [text.text for text in texts if text.finish_reason == "stop"]
        assert len(set(finished)) > 5 and all(re.fullmatch("[abcd]{3}", text) for text in finished)
        assert any(text in known for text in finished) == copies


# The door


def test_what_can_not_obey_it_is_refused_in_one_line(model, monkeypatch):
    bare = TextGenerator(model, Bytes(), CONTEXT, ())
    with pytest.raises(SamplerError, match=r"max_copied_tokens: here is no index of a training text; write from a run"):
        bare.generate(["x"], sampler="max_copied_tokens=2")
    with pytest.raises(PromptError, match=r"max_copied_tokens=2: it needs a training text, and here is none"):
        Generator(model, vocab_size=VOCAB, context=CONTEXT).stream(
            [[1]], chain=parse_chain("max_copied_tokens=2"), max_new_tokens=3
        )
    with pytest.raises(SamplerError, match=r"beam=3 can't follow max_copied_tokens=2; draw or write greedy instead"):
        find_constraints(parse_chain("max_copied_tokens=2,beam=3"))
    for value in ("0", "1.5", "x", "1025", ""):
        with pytest.raises(SamplerError, match="it takes a whole number of tokens from 1 to 1024"):
            parse_chain(f"max_copied_tokens={value}")

    def imported():
        raise ConfigError("runs/gpt2 was imported: what it was trained on is not known here")

    with pytest.raises(SamplerError, match="max_copied_tokens: runs/gpt2 was imported"):
        Matchers(Bytes(), imported)(parse_chain("max_copied_tokens=2").links[0], [1], [])


def test_training_refuses_it_before_it_begins():
    evaluation = SimpleNamespace(rows=1, samples=1, sample_tokens=4, sampler="max_copied_tokens=8", prompt="A")
    with pytest.raises(ConfigError, match=r"evaluation.sampler: max_copied_tokens: here is no index"):
        check_samples(SimpleNamespace(evaluation=evaluation), Bytes(), CONTEXT)
