"""Guidance and contrast: distributions against float64 from whole texts read without a cache, and transformers' own."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.decode.chain import Chain, SamplerError, chain_to_json, format_chain, parse_chain
from model.decode.compositions import Contrast, Guidance
from model.decode.generate import DecodingModel, Generator
from model.decode.prompts import PromptError, PromptTooLong
from model.decode.sequence import window_start
from model.decode.sources import compose
from model.sharding import make_mesh
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(180)
VOCAB, CONTEXT, SHORT = 13, 128, 16
NEGATIVE = (7, 2, 9)


@functools.cache
def model(width: int = 16, padded: int = 16) -> Transformer:
    block = c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32, gated=True))
    init = c.Init(embedding=0.3, residual=0.3)
    config = c.Model(padded, width, CONTEXT, (c.Stack((block,), 1),), init=init)
    return jax.jit(lambda: Transformer(config, jax.random.key(width)))()


def generator(context: int = CONTEXT, amateur_context: int = CONTEXT) -> Generator:
    """An expert, and as the run `small` an amateur whose vocabulary is padded to another size."""
    made = Generator(model(), vocab_size=VOCAB, context=context)
    made.models["small"] = DecodingModel(model(8, 24), amateur_context)
    return made


@pytest.fixture(scope="module")
def writer() -> Generator:
    return generator()


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


read = jax.jit(lambda model, tokens_BT: model.logits(model.hidden(tokens_BT)))


def log_probabilities64(width: int, padded: int, text: list[int], context: int) -> np.ndarray:
    """Of the token behind what a model still sees of a text, read without a cache."""
    seen = text[window_start(len(text), context) :]
    tokens = np.zeros((1, CONTEXT), np.int32)
    tokens[0, : len(seen)] = seen
    logits_V = np.asarray(read(model(width, padded), tokens), np.float64)[0, len(seen) - 1, :VOCAB]
    return logits_V - np.log(np.exp(logits_V - logits_V.max()).sum()) - logits_V.max()


def reference(source, start: list[int], new: list[int], context: int, amateur_context: int) -> np.ndarray:
    """The definition of a source in float64: log-probabilities of the token behind a prompt and what is written."""
    text = [*start, *new]
    main = log_probabilities64(16, 16, text, context)
    if isinstance(source, Guidance):
        other = log_probabilities64(16, 16, [*(source.prompt or start[-1:]), *new], context)
        scores = source.scale * (main - other) + other
    else:
        amateur = log_probabilities64(8, 24, text, amateur_context)
        kept = np.exp(main) >= source.alpha * np.exp(main).max()
        scores = np.where(kept, (1 + source.beta) * main - source.beta * amateur, -np.inf)
    return scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()


def check_text(row, source, start, seed, context=CONTEXT, amateur_context=CONTEXT):
    """Every token is the one that the definition draws with the row's key, and has its probability."""
    for index, token in enumerate(row.tokens):
        scores_V = reference(source, start, row.tokens[:index], context, amateur_context)
        assert abs(row.log_probabilities[index] - scores_V[token]) < 1e-4
        key = jax.random.wrap_key_data(jnp.array([0, seed], jnp.uint32))
        key = jax.random.fold_in(jax.random.fold_in(key, 0), len(start) + index)
        assert token == np.argmax(scores_V + np.asarray(jax.random.gumbel(key, (VOCAB,))))


SOURCES = [Guidance(1.5), Guidance(3.0, NEGATIVE), Guidance(0.0, NEGATIVE), Contrast("small", 0.1, 0.5),
           Contrast("small", 0.4, 2.0), Contrast("small", 1.0, 1.0)]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_text_follows_the_definition_of_its_source(writer, source):
    for length in (1, 6):
        (row,) = writer.generate([prompt(length)], chain=Chain(source=source), max_new_tokens=10, seed=4)
        check_text(row, source, prompt(length), 4)


@given(st.integers(0, 2**31), st.floats(0, 5), st.floats(0, 1), st.floats(0, 5))
@settings(deadline=None, max_examples=40)
def test_scores_of_random_logits_are_those_of_float64(seed, scale, alpha, beta):
    logits = np.random.default_rng(seed).normal(0, 3, (2, 3, 1, 16)).astype(np.float32)
    main, other = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits[..., :VOCAB].astype(np.float64))
    rows = lambda value: jnp.full(3, value, jnp.float32)  # noqa: E731
    found = Guidance(rows(scale))(tuple(logits), VOCAB)
    np.testing.assert_allclose(found, scale * (main - other) + other, atol=1e-4)
    found = np.asarray(Contrast("small", rows(alpha), rows(beta))(tuple(logits), VOCAB))
    margin = np.exp(main) / np.exp(main).max(-1, keepdims=True) - alpha
    sure = np.abs(margin) > 1e-5
    np.testing.assert_array_equal(np.isfinite(found)[sure], (margin >= 0)[sure])
    expected = (1 + beta) * main - beta * other
    np.testing.assert_allclose(found[np.isfinite(found)], expected[np.isfinite(found)], atol=1e-4)


def test_each_branch_goes_on_from_its_newest_half_when_its_own_text_fills_its_context():
    """The branches fill their contexts at different tokens, several times."""
    guidance, contrast, short = Guidance(2.0, NEGATIVE), Contrast("small", 0.05, 0.7), generator(SHORT, 10)
    for source, start in ((guidance, prompt(11)), (Guidance(2.0), prompt(13)), (contrast, prompt(15))):
        (row,) = short.generate([start], chain=Chain(source=source), max_new_tokens=26, seed=6)
        assert len(row.tokens) == 26
        check_text(row, source, start, 6, SHORT, 10)


@pytest.mark.parametrize("context", [2, 3, 7, 16])
def test_what_a_model_sees_is_decided_by_the_length_of_the_text(context):
    """Against a text that grows by one token at a time and is cut when it fills the context."""
    first = 0
    for length in range(1, 60):
        if length - first == context:
            first = length - context // 2
        assert window_start(length, context) == first


@pytest.mark.parametrize(
    "neutral, rest",
    [
        ("guidance(scale=1)", "temperature=0.8,top_k=7"),
        ("guidance(scale=1,prompt=[3,1])", "temperature=0.8,top_k=7"),
        ("contrast(run=small,alpha=1e-6,beta=0)", "temperature=0.8,top_k=7"),
        ("guidance(scale=1,prompt=[3,1])", ""),
    ],
)
def test_a_neutral_source_writes_what_the_model_writes_alone(writer, neutral, rest):
    request = {"max_new_tokens": 20, "seed": 2, "samples": 2}
    prompts = [prompt(5), prompt(9, 1)]
    plain = writer.generate(prompts, chain=parse_chain(rest), **request)
    composed = writer.generate(prompts, chain=parse_chain(f"{neutral},{rest}".rstrip(",")), **request)
    for a, b in zip(plain, composed, strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, atol=1e-5)


def test_rows_of_one_batch_have_their_own_numbers_and_prompts(writer):
    guidances = [Guidance(1.3), Guidance(4.0, NEGATIVE), Guidance(0.5, (1,)), Guidance(2.0, tuple(prompt(12, 5)))]
    contrasts = [Contrast("small", alpha, beta) for alpha, beta in ((0.1, 0.5), (0.01, 2.0), (0.5, 0.0), (0, 1.0))]
    prompts = [prompt(length, length) for length in (3, 14, 1, 9)]
    for sources in (guidances, contrasts):
        chains = [dataclasses.replace(parse_chain("temperature=0.9"), source=source) for source in sources]
        together = writer.generate(prompts, chain=chains, max_new_tokens=12, seed=8)
        for index, row in enumerate(together):
            (alone,) = writer.generate([prompts[index]], chain=chains[index], max_new_tokens=12, seed=8)
            assert row.tokens == alone.tokens
            np.testing.assert_allclose(row.log_probabilities, alone.log_probabilities, atol=1e-4)
        assert len({tuple(row.tokens) for row in together}) == 4


def test_a_batch_has_one_kind_of_source(writer):
    for other in ("", "contrast(run=small)"):
        with pytest.raises(PromptError, match="differ in their links"):
            writer.generate([[1], [2]], chain=[parse_chain("guidance"), parse_chain(other)], max_new_tokens=2)


def test_a_mesh_writes_what_one_device_writes(writer):
    request = {"chain": parse_chain("contrast(run=small)"), "max_new_tokens": 8, "seed": 3}
    with jax.set_mesh(make_mesh({"tensor": 4, "data": 2})):
        found = generator().generate([prompt(9), prompt(1)], **request)
    assert [row.tokens for row in found] == [row.tokens for row in writer.generate([prompt(9), prompt(1)], **request)]


def test_new_scales_and_prompts_compile_nothing(writer):
    seen = []
    listener = lambda event, *_, **__: event.endswith("backend_compile_duration") and seen.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    counts = []
    for scale, negative in ((1.5, [4, 2]), (2.5, [5, 6, 7]), (0.7, [1, 3])):
        chain = parse_chain(f"guidance(scale={scale},prompt={negative}),top_p=0.9")
        writer.generate([prompt(10)], chain=chain, max_new_tokens=4)
        counts.append(len(seen))
    assert counts == [counts[0]] * 3


def test_the_two_branches_of_guidance_are_one_set_of_weights():
    source = compose(Guidance(), (model(),), VOCAB)
    assert source.branches[0] is source.branches[1]
    assert len({id(leaf) for leaf in jax.tree.leaves(source.branches)}) == len(jax.tree.leaves(model()))


# Against transformers


def test_guidance_is_that_of_transformers():
    """Greedy text and scores of a random GPT-2, with another prompt and without, through transformers' generate."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    from test_parity import build  # needs both

    shape = {"vocab_size": 97, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "eos_token_id": 0}
    pair = build({"model_type": "gpt2", "bos_token_id": 0, **shape})
    ours = Generator(pair.ours, vocab_size=97, context=64)
    text = np.random.default_rng(1).integers(0, 97, 6).tolist()
    for scale, negative in ((1.7, ()), (2.5, (3, 90)), (0.4, (3, 90, 41, 7))):
        chain = dataclasses.replace(parse_chain("greedy"), source=Guidance(scale, negative))
        (row,) = ours.generate([text], chain=chain, max_new_tokens=12)
        other = torch.tensor([negative]) if negative else None
        processor = transformers.generation.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, pair.theirs, other)
        ids = torch.tensor([text])
        for index, token in enumerate(row.tokens):
            with torch.inference_mode():
                scores_V = processor(ids, pair.theirs(ids).logits[:, -1])[0]
            assert token == int(scores_V.argmax())
            assert abs(row.log_probabilities[index] - float(torch.log_softmax(scores_V, -1)[token])) < 1e-4
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


# The door


@pytest.mark.parametrize(
    "given, canonical, source",
    [
        ("guidance", "guidance", Guidance()),
        ("guidance=2", "guidance=2", Guidance(2.0)),
        ('guidance(scale=3,prompt="a dull, (flat) text")', 'guidance(scale=3,prompt="a dull, (flat) text")',
         Guidance(3.0, "a dull, (flat) text")),
        ("guidance(prompt=[7,2,9])", "guidance(prompt=[7, 2, 9])", Guidance(1.5, NEGATIVE)),
        ("contrast=runs/small", 'contrast="runs/small"', Contrast("runs/small")),
        ("contrast( run = runs/small@best , beta=1)", 'contrast(run="runs/small@best",beta=1)',
         Contrast("runs/small@best", beta=1.0)),
    ],
)  # fmt: skip
def test_a_source_is_read_and_written_at_the_head_of_a_chain(given, canonical, source):
    chain = parse_chain(given + ",temperature=0.8,greedy")
    assert chain.source == source and format_chain(chain) == canonical + ",temperature=0.8,greedy"
    assert parse_chain(format_chain(chain)) == chain
    assert parse_chain(json.dumps(chain_to_json(chain))) == chain


@pytest.mark.parametrize(
    "sampler, parts",
    [
        ("temperature=0.8,guidance=2", ["guidance must come first"]),
        ("guidance,contrast=runs/small", ["contrast must come first", "only one of guidance, contrast"]),
        ("greedy,guidance", ["'guidance' after greedy"]),
        ("guidence=2", ["'guidence'", "did you mean 'guidance'"]),
        ("guidance=-1", ["scale of guidance is -1", "from 0 to 100"]),
        ("guidance(scale=nan)", ["scale of guidance is nan"]),
        ('guidance(prompt="")', ["prompt of guidance is nothing", "a list of ids"]),
        ("guidance(prompt=[])", ["prompt of guidance is []"]),
        ("guidance(prompt=[1,-2])", ["prompt of guidance is [1, -2]"]),
        ("guidance(alpha=1)", ["guidance has no parameter 'alpha'", "scale, prompt"]),
        ("contrast", ["run of contrast is nothing", "run=runs/small"]),
        ("contrast(alpha=0.1)", ["run of contrast is nothing"]),
        ('[{"name": "contrast", "run": 5}]', ["run of contrast is 5"]),
        ("contrast(run=a,alpha=1.5)", ["alpha of contrast is 1.5", "from 0 to 1"]),
        ("contrast(run=a,beta=-0.1)", ["beta of contrast is -0.1"]),
    ],
)
def test_a_source_that_can_not_be_read_says_why_in_one_line(sampler, parts):
    with pytest.raises(SamplerError) as error:
        parse_chain(sampler)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    "source, kind, parts",
    [
        (Guidance(1.5, (1, VOCAB)), PromptError, ["guidance", "holds the id 13", "0 to 12"]),
        (Guidance(1.5, tuple(prompt(CONTEXT))), PromptTooLong, ["guidance", "has 128 tokens"]),
        (Guidance(1.5, "dull"), PromptError, ['prompt="dull"', "is text"]),
        (Contrast("other"), PromptError, ['contrast="other"', "model of other is not loaded"]),
    ],
)
def test_a_source_that_can_not_be_made_is_refused_at_the_call(writer, source, kind, parts):
    with pytest.raises(kind) as error:
        writer.stream([[1]], chain=Chain(source=source), max_new_tokens=2)
    assert all(part in str(error.value) for part in parts), error.value
