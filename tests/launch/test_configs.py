"""`skald configs`, and that every config can be what it says: published parameter counts, one step each."""

from dataclasses import replace

import pytest

from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from launch import experiments
from launch.commands import configs as listing
from launch.experiments import make_experiment
from launch.inference.text import check_samples
from train import fields
from train.check import check
from train.config import Experiment
from train.fields import ConfigError

PUBLISHED = {  # parameters: OpenAI's checkpoints; Meta's model cards (7B: 6,738,415,616; 8B: 8,030,261,248; 1B: 1.24 B)
    "gpt2:small": 124_439_808,
    "gpt2:medium": 354_823_168,
    "gpt2:large": 774_030_080,
    "gpt2:xl": 1_557_611_200,
    "llama:1b": 1_235_814_400,
    "llama:7b": 6_738_415_616,
    "llama:8b": 8_030_261_248,
    "llama:70b": 68_976_648_192,
    "mixtral:8x7b": 46_702_792_704,
}
NAMES = [f"{name}:{variant}".removesuffix(":default") for name, variant, _ in listing.all_configs()]


def test_configs_lists_all_with_published_parameter_counts(fresh):
    listed = {entry["name"]: entry for entry in fresh.json("configs")["configs"]}
    assert list(listed) == NAMES and {"shakespeare", "shakespeare:nanogpt", "vaswani", "llama:tiny"} <= listed.keys()
    assert {name: listed[name]["parameters"] for name in PUBLISHED} == PUBLISHED
    assert listed["shakespeare"]["parameters"] <= listed["shakespeare:nanogpt"]["parameters"] <= 810_000
    assert all(entry["for"] for entry in listed.values())
    status, out, _ = fresh("configs")
    assert status == 0 and len(out.splitlines()) == len(listed) and "124.44 M" in out


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_whole(name):
    experiment = make_experiment(name)
    assert isinstance(experiment, Experiment)
    check(experiment)
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


@pytest.mark.parametrize(
    "code, parts",
    [
        ("def default():\n    return 5\n", ["no function of the file is annotated `-> Experiment`"]),
        ("def default() -> 'Experiment':\n    return 5\n", ["default() returned int, not an Experiment"]),
        ("\ndef default() -> 'Experiment':\n    return nothing\n", [":3: NameError: name 'nothing'"]),
        ("x = 1\ndef default(:\n", [":2: SyntaxError: "]),
        ("import nosuchmodule\n", [":1: ModuleNotFoundError: No module named 'nosuchmodule'"]),
        ("\n\nraise ValueError('told so')\n", [":3: ValueError: told so"]),
    ],
)
def test_a_config_file_that_fails_is_named_with_the_line(tmp_path, code, parts):
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ConfigError) as error:
        make_experiment(str(file))
    assert all(part in str(error.value) for part in (str(file), *parts)), error.value


def test_a_config_file_that_fails_ends_in_status_2_with_a_traceback_only_for_debug(skald, tmp_path):
    (tmp_path / "mine.py").write_text("import nosuchmodule\n")
    line = f"skald: {tmp_path}/mine.py:1: ModuleNotFoundError: No module named 'nosuchmodule'\n"
    assert skald("train", tmp_path / "mine.py") == (2, "", line)
    status, _, err = skald("train", tmp_path / "mine.py", "--debug")
    assert status == 2 and err.startswith("Traceback") and err.endswith(line)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"rows": 0}, ["evaluation.rows: must be at least 1, got 0"]),
        ({"rows": 0, "samples": 0}, ["evaluation.rows: must be at least 1, got 0"]),
        ({"samples": -1}, ["evaluation.samples: must be at least 0, got -1"]),
        ({"sample_tokens": 0}, ["evaluation.sample_tokens: must be at least 1, got 0"]),
        ({"sampler": "top_q=3"}, ["evaluation.sampler: ", "did you mean 'top_p'"]),
        ({"prompt": ""}, ["evaluation.prompt: ", "is empty"]),
        ({"prompt": "naïve"}, ["evaluation.prompt: ", "'ï' (U+00EF) at offset 2", "--set evaluation.prompt="]),
        ({"prompt": "a\ud800"}, ["evaluation.prompt: ", "at offset 1"]),
        ({"prompt": "a" * 64}, ["evaluation.prompt: ", "64 tokens", "trained on 64 at a time"]),
    ],
)
def test_samples_that_could_not_be_written_are_refused(changes, parts):
    experiment = make_experiment("shakespeare")
    wrong = replace(experiment, evaluation=replace(experiment.evaluation, **changes))
    with pytest.raises(ConfigError) as error:
        check_samples(wrong, Characters("\n aenv"), 64)
    assert all(part in str(error.value) for part in parts), error.value


def test_samples_that_can_be_written_or_are_not_asked_for_pass():
    experiment = make_experiment("shakespeare")
    check_samples(experiment, Bytes(), 64)
    none = {"samples": 0, "sample_tokens": -1, "sampler": "top_q=3", "prompt": ""}
    check_samples(replace(experiment, evaluation=replace(experiment.evaluation, **none)), Bytes(), 64)
