"""The distance of a model in training: against the decoder's own texts one by one, and every field of its config."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data.config import Data, Source, Tokenizer
from data.documents import Documents
from data.windows import ScoredText
from launch.machine.auto import decoding_execution
from launch.quality.training import TrainingDistance
from model.config import MLP, Attention, Block, Execution, Init, Model, Rope, Stack
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.sharding import make_mesh
from model.transformer import Transformer
from train.config import Checkpoints, Evaluation, Experiment, HumanDistance, Optimizer
from train.fields import ConfigError
from train.quality.gate import GATED, gate

VOCAB, CONTEXT, END = 12, 16, 11
MODEL = Model(
    VOCAB, 16, CONTEXT, (Stack((Block(Attention(2, 2, 8, rope=Rope()), MLP(16)),), 1),), init=Init(weight=0.3)
)
HUMAN = HumanDistance(texts=20, prompt_tokens=5, new_tokens=20, sampler="temperature=0.7")


def experiment(human: HumanDistance = HUMAN, **fields) -> Experiment:
    made = Experiment(
        "tiny", MODEL, Data(Source("nothing"), Tokenizer("bytes"), CONTEXT), Optimizer(0.01), steps=10, batch_size=8,
        evaluation=Evaluation(every=5, human=human), checkpoints=Checkpoints(every=5),
    )  # fmt: skip
    return replace(made, **fields)


@pytest.fixture(scope="module")
def data() -> SimpleNamespace:
    """Held-out text of two documents, whose end token the model likes as much as any other."""
    tokens = np.random.default_rng(0).integers(0, END, 600).astype(np.int32)
    tokens[[299, 599]] = END
    documents = Documents(tokens, np.array([0, 300, 600]), np.array([300, 300]), ended=True)
    tokenizer = SimpleNamespace(vocab_size=VOCAB, start_id=None, end_id=END, start_prompts=False)
    return SimpleNamespace(tokenizer=tokenizer, validation=[ScoredText("novels", documents, 600)])


def test_every_text_is_as_long_as_it_is_to_be_and_is_the_decoders_own_of_its_prompt_alone(data):
    lines, random_model = [], lambda: Transformer(MODEL, jax.random.key(0), decoding_execution(Execution()))
    distance = TrainingDistance(experiment(), data, CONTEXT, lines.append)
    with jax.set_mesh(make_mesh({"replica": 0}, jax.devices()[:2])):
        model = jax.jit(random_model)()
        *parts, values = distance.scores(model)
    assert parts and not any(parts) and len(lines) == 1
    generator = Generator(jax.jit(random_model)(), vocab_size=VOCAB, context=CONTEXT)
    chain = parse_chain(f"min_length=20,{HUMAN.sampler}")
    texts = [
        generator.generate([prompt], chain=chain, max_new_tokens=20, seed=seed, stop_ids=[END])[0].tokens
        for prompt, seed in zip(distance.prompts, distance.seeds, strict=True)
    ]
    assert {len(text) for text in texts} == {20} and not any(END in text for text in texts)
    human, stored = [], data.validation[0].documents.tokens
    for prompt in distance.prompts:
        (start,) = [i for i in range(580) if stored[i : i + 5].tolist() == prompt and END not in stored[i : i + 25]]
        human.append(stored[start + 5 : start + 25])
    expected = gate([np.array(text) for text in texts], human)
    assert values["eval/human/distance"] == pytest.approx(expected["distance"], rel=1e-12)
    assert {name: values[f"eval/human/{name}"] for name in GATED} == pytest.approx(
        {name: measure["value"] for name, measure in expected["measures"].items()}, rel=1e-12
    )


def measured(data, **fields) -> tuple:
    """What the model is given, and what its texts are compared with."""
    made = TrainingDistance(experiment(replace(HUMAN, **fields)), data, CONTEXT, print)
    return made.prompts, made.chain, made.intervals


def test_every_field_changes_what_is_measured(data):
    before = measured(data)
    for change in ({"texts": 21}, {"prompt_tokens": 4}, {"new_tokens": 19}, {"sampler": "greedy"}):
        assert measured(data, **change) != before, change
    assert measured(data) == measured(data, patience=1) == before


def test_what_can_not_be_measured_is_refused(data):
    pairs = replace(experiment().data, packing="pairs")
    for made, message in (
        (experiment(replace(HUMAN, texts=25)), "evaluation.human: novels: 25 prompts of 5 tokens with 20 more"),
        (experiment(replace(HUMAN, prompt_tokens=16)), "evaluation.human.prompt_tokens: 16 tokens fill the 16"),
        (
            experiment(replace(HUMAN, sampler="greedy,stop_tokens=3")),
            "evaluation.human.sampler: all texts are measured",
        ),
        (experiment(data=pairs), "evaluation.human: the validation text is preference pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainingDistance(made, data, CONTEXT, print)
