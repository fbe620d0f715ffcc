"""A run on a mixture: the losses and epochs of its sources, which `skald evaluate` finds again in its checkpoint."""

import json
from pathlib import Path

import pytest

from data.config import Data, Mixture, Part, Source, Tokenizer
from data.pipeline import open_pipeline

pytestmark = pytest.mark.timeout(400)
CONFIG = '''"""Two sources, of which one ends."""

from dataclasses import replace

from configs import shakespeare
from data.config import Data, Mixture, Part, Source, Tokenizer
from model.config import MLP, Attention, Block, Model, Rope, Stack
from train.config import Checkpoints, Evaluation, Experiment

PARTS = Part(Source("{folder}/one.jsonl"), 3.0, "stop"), Part(Source("{folder}/two.jsonl"), name="other")


def default() -> Experiment:
    block = Block(Attention(2, 2, 8, rope=Rope()), MLP(32))
    return replace(
        shakespeare.default(),
        name="mixed",
        model=Model(vocab_size=256, width=16, context=16, layers=(Stack((block,), 1),)),
        data=Data(Mixture(PARTS), Tokenizer("bytes"), 16, "best_fit"),
        steps=8,
        batch_size=16,
        evaluation=Evaluation(every=4, rows=16, samples=0),
        checkpoints=Checkpoints(every=4),
    )
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    for name, letters in (("one", "abc"), ("two", "xyz.,:")):
        texts = [f"{i} {letters[i % len(letters)] * (i % 23)}" for i in range(140)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "mixed.py").write_text(CONFIG.replace("{folder}", str(folder)))
    return folder / "mixed.py"


def test_a_run_has_the_loss_and_the_epochs_of_each_source(skald, config, tmp_path):
    run = tmp_path / "run"
    status, _, err = skald("train", config, "--run-dir", run)
    assert status == 0, err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8]
    folder = config.parent
    parts = Part(Source(f"{folder}/one.jsonl"), 3.0, "stop"), Part(Source(f"{folder}/two.jsonl"), name="other")
    data = Data(Mixture(parts), Tokenizer("bytes"), 16, "best_fit")
    pipeline = open_pipeline(data, 16, 0, Path(skald.environment["SKALD_CACHE"]))
    tokens = [text.documents.targets for text in pipeline.validation]
    for line in lines[3::4]:
        losses = [line["eval/loss/one.jsonl"], line["eval/loss/other"]]
        mean = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
        assert line["eval/loss"] == pytest.approx(mean, rel=1e-6) and losses[0] != losses[1]
        epochs = {name: value for name, value in line.items() if name.startswith("data/epochs/")}
        expected = pipeline.epochs(line["step"])
        assert (
            epochs == {f"data/epochs/{name}": value for name, value in expected.items()} and min(expected.values()) > 0
        )
    scores = skald.json("evaluate", run)
    assert scores["loss"] == pytest.approx(lines[-1]["eval/loss"], rel=1e-5) and scores["tokens"] == sum(tokens)


def test_a_mixture_that_ends_before_the_run_is_refused_before_it_begins(skald, config, tmp_path):
    stops = "data.source.parts.1.at_end=stop"
    status, _, err = skald("train", config, "--run-dir", tmp_path / "run", "--set", stops, "--set", "steps=1000")
    assert status == 2 and "the sources of the mixture have ended before step 1000" in err, err
    assert not (tmp_path / "run").exists()
