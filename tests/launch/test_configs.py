"""`skald configs`, and that every config can be what it says: published parameter counts, one step each."""

import pytest

from launch import configs as listing
from launch import experiments
from launch.experiments import load
from train import fields
from train.config import Experiment
from train.run import check

PUBLISHED = {  # parameters: OpenAI's checkpoints; Meta's model cards (7B: 6,738,415,616; 8B: 8,030,261,248; 1B: 1.24 B)
    "gpt2:small": 124_439_808,
    "gpt2:medium": 354_823_168,
    "gpt2:large": 774_030_080,
    "gpt2:xl": 1_557_611_200,
    "llama:1b": 1_235_814_400,
    "llama:7b": 6_738_415_616,
    "llama:8b": 8_030_261_248,
}
NAMES = [f"{name}:{variant}".removesuffix(":default") for name, variant, _ in listing.every()]


def test_configs_lists_all_with_published_parameter_counts(skald):
    listed = {entry["name"]: entry for entry in skald.json("configs")["configs"]}
    assert list(listed) == NAMES and {"shakespeare", "shakespeare:nanogpt", "vaswani", "llama:tiny"} <= listed.keys()
    assert {name: listed[name]["parameters"] for name in PUBLISHED} == PUBLISHED
    assert listed["shakespeare"]["parameters"] <= listed["shakespeare:nanogpt"]["parameters"] <= 810_000
    assert all(entry["for"] for entry in listed.values())
    status, out, _ = skald("configs")
    assert status == 0 and len(out.splitlines()) == len(listed) and "124.44 M" in out


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_whole(name):
    experiment = load(name)
    assert isinstance(experiment, Experiment)
    check(experiment, 1)
    assert fields.from_json(Experiment, fields.to_json(experiment)) == experiment


def test_a_python_file_of_a_users_own_is_a_config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nfrom configs.shakespeare import default as base\n"
        "from train.config import Experiment\n"
        'def big() -> Experiment:\n    """Twice the batch."""\n    return replace(base(), batch_size=24)\n'
    )
    assert experiments.resolve(f"{file}:big", ["steps=7"], 3).batch_size == 24
    assert experiments.resolve(f"{file}:big", ["steps=7"], 3).steps == 7
    assert str(experiments.default_folder(f"{file}:big")) == "runs/mine-big"
    assert str(experiments.default_folder("shakespeare")) == "runs/shakespeare"
