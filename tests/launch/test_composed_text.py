"""Guidance and contrast by command and in Python: text against the logits of whole texts, runs opened once, errors."""

from dataclasses import replace

import numpy as np
import pytest

from configs import shakespeare
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from launch.inference.amateur import LOADED, check_vocabulary
from launch.inference.prompts import encode_guidance
from launch.inference.text import check_samples
from model.decode.chain import SamplerError, parse_chain
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def runs(trained_run):
    from launch.api import load

    return load(str(trained_run)), load(f"{trained_run}@20")


def log_probabilities(run, text: str) -> np.ndarray:
    logits_V = run.logits([run.tokenizer.encode(text)])[0, -1].astype(np.float64)
    return logits_V - np.log(np.exp(logits_V).sum())


def test_guided_text_of_the_command_follows_the_logits_of_both_prompts(skald, trained_run, runs):
    arguments = ["generate", trained_run, "--prompt", "ROMEO:", "--max-new-tokens", "12"]
    sampler = 'guidance(scale=3,prompt="the sea"),greedy'
    (sample,) = skald.json(*arguments, "--sampler", sampler)["samples"]
    assert sample["sampler"] == sampler
    run = runs[0]
    for index, token in enumerate(sample["tokens"]):
        new = sample["text"][:index]
        other = log_probabilities(run, "the sea" + new)
        scores = 3 * (log_probabilities(run, "ROMEO:" + new) - other) + other
        assert scores[token] > scores.max() - 1e-4
    assert run.generate("ROMEO:", sampler=sampler, max_new_tokens=12)[0]["tokens"] == sample["tokens"]


def test_contrasted_text_follows_the_logits_of_both_runs_and_goes_past_the_context(runs, trained_run):
    run, amateur = runs
    sampler = f'contrast(run="{trained_run}@20",alpha=0.2,beta=2),greedy'
    (sample,) = run.generate("ROMEO:", sampler=sampler, max_new_tokens=40)
    assert sample["sampler"] == sampler and len(sample["tokens"]) == 40
    for index, token in enumerate(sample["tokens"][: 32 - 6]):
        text = "ROMEO:" + sample["text"][:index]
        expert = log_probabilities(run, text)
        scores = np.where(expert >= expert.max() + np.log(0.2), 3 * expert - 2 * log_probabilities(amateur, text), -9e9)
        assert scores[token] > scores.max() - 1e-4


def test_the_weights_of_an_amateur_are_held_once(runs, trained_run):
    for run, name in zip(
        runs, (f"{trained_run}@20", f"{trained_run.parent / '.' / trained_run.name}/@20"), strict=True
    ):
        run.generate("A", sampler=f'contrast(run="{name}")', max_new_tokens=1)
    held = [model for run in runs for name, model in run.generator.generator.models.items() if name]
    assert len({id(model) for model in held}) == len(LOADED) == 1


@pytest.mark.parametrize(
    "sampler, status, parts",
    [
        ('contrast(run="no/run")', 2, ["no/run"]),
        ('guidance(prompt="\u00e9")', 1, ["prompt of guidance", "\u00e9"]),
        (f'guidance(prompt="{"a" * 32}")', 2, ["prompt of guidance", "has 32 tokens"]),
        ("guidance(prompt=[1,65])", 2, ["the prompt in guidance(prompt=[1, 65])", "holds the id 65"]),
        ("temperature=0.8,guidance=2", 2, ["guidance must come first"]),
    ],
)
def test_a_source_that_can_not_be_made_ends_the_command_with_one_line(skald, trained_run, sampler, status, parts):
    found, out, err = skald("generate", trained_run, "--prompt", "A", "--sampler", sampler)
    assert (found, out) == (status, "") and err.count("\n") == 1, err
    assert all(part in err for part in parts), err


@pytest.mark.parametrize(
    "amateur, expert, said",
    [
        (Bytes(), Characters("abc"), "that of runs/small has 256 tokens, this model's 3"),
        (Characters("abd"), Characters("abc"), "its token 2 is 'd', this model's 'c'"),
    ],
)
def test_a_contrast_needs_one_vocabulary(amateur, expert, said):
    with pytest.raises(SamplerError, match=said):
        check_vocabulary("runs/small", amateur, expert)
    check_vocabulary("runs/small", expert, expert)


def test_a_vocabulary_is_the_same_whatever_file_it_was_read_from():
    class OtherFile(Characters):
        def to_json(self):
            return {"kind": "other"}

    check_vocabulary("runs/small", OtherFile("abc"), Characters("abc"))


def test_the_prompt_of_guidance_becomes_ids():
    chain = parse_chain('guidance(scale=2,prompt="cab"),top_k=2')
    assert encode_guidance(chain, Characters("abc"), 8).source.prompt == (2, 0, 1)
    for sampler in ("guidance(prompt=[2,0])", "guidance", "top_k=2"):
        assert encode_guidance(parse_chain(sampler), Characters("abc"), 8) == parse_chain(sampler)


@pytest.mark.parametrize(
    "sampler, said", [("contrast(run=runs/small)", "training holds one model"), ('guidance(prompt="é")', "é")]
)
def test_samples_of_training_refuse_a_source_that_they_can_not_have(sampler, said):
    experiment = shakespeare.default()
    wrong = replace(experiment, evaluation=replace(experiment.evaluation, prompt="a", sampler=sampler))
    with pytest.raises(ConfigError, match=f"evaluation.sampler: .*{said}"):
        check_samples(wrong, Characters("\nabc"), 64)
