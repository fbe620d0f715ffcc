"""`skald import` as a user runs it, on folders that transformers made, and what can be done with the run it makes."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from configs import shakespeare
from data.tokenizers.tokenizer import build_tokenizer
from launch.inference.checkpoint import LoadedCheckpoint, end_ids
from model.decode.chain import LINKS
from train.checkpoint_folder import find_checkpoint
from train.huggingface.reading import import_mesh, load_weights, open_checkpoint
from train.huggingface.tokenizers import find_tokenizer

torch = pytest.importorskip("torch", reason="folders are made with torch: pip install torch transformers")
transformers = pytest.importorskip(
    "transformers", reason="folders are made with transformers: pip install transformers"
)

pytestmark = pytest.mark.timeout(300)
TEXT = "The quick brown fox jumps over the lazy dog, and 12 foxes sleep.\nNo more of this.\n"
PROMPTS = ["The quick", "a", "12 foxes\n", "lazy dog, and"]
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random GPT-2 with a byte-level tokenizer.json of its own."""
    folder = tmp_path_factory.mktemp("huggingface") / "gpt2"
    parts = tokenizers.Tokenizer(tokenizers.models.BPE())
    parts.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    parts.train_from_iterator([TEXT], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=parts, bos_token=END, eos_token=END)
    tokenizer.chat_template = "{{ messages }}"
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_head=4, n_layer=2, n_positions=96, vocab_size=300, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def imported(skald, folder, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("imported") / "run"
    status, out, err = skald("import", folder, run, "--json")
    assert status == 0, err
    assert json.loads(out)["model_type"] == "gpt2"
    return run


def with_files(folder: Path, target: Path, **files) -> Path:
    """A copy of a folder with other JSON files: the name without ending -> an object, or None to leave it out."""
    shutil.copytree(folder, target)
    for name, content in files.items():
        file = target / f"{name}.json"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(json.dumps(content))
    return target


def test_greedy_text_is_that_of_transformers(skald, folder, imported, tmp_path):
    """The sampler is that of generation_config.json: none is named."""
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    command = ["generate", imported, "--prompts", tmp_path / "prompts.jsonl", "--max-new-tokens", "32"]
    for prompt, sample in zip(PROMPTS, skald.json(*command)["samples"], strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
        assert sample["sampler"] == "greedy"
        assert sample["tokens"] == [token for token in written if token != 0]
        assert sample["text"] == tokenizer.decode(sample["tokens"])


def test_an_import_keeps_the_files_and_no_experiment(folder, imported):
    checkpoint = find_checkpoint(str(imported))
    metadata, kept = checkpoint.metadata, checkpoint.metadata["huggingface"]
    assert (checkpoint.step, metadata["config"], metadata["data"], metadata["trained_length"]) == (0, None, {}, 96)
    assert [path.name for path in imported.iterdir()] == ["checkpoints"]
    assert (kept["model_type"], kept["dtype"]) == ("gpt2", "float32")
    for name in ("config", "generation_config"):
        assert kept[name] == json.loads((folder / f"{name}.json").read_text())
    assert kept["files"] == {
        name: (folder / name).read_text() for name in ("tokenizer_config.json", "chat_template.jinja")
    }


def test_eight_devices_save_what_one_saves(skald, folder, imported, tmp_path):
    flags = skald.environment["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    status, _, err = skald.with_environment(XLA_FLAGS=flags)("import", folder, tmp_path / "run")
    assert status == 0, err
    one, eight = (jax.tree.leaves(LoadedCheckpoint(str(run)).model) for run in (imported, tmp_path / "run"))
    assert all(map(np.array_equal, one, eight))


def test_evaluation_needs_a_text(skald, imported, tmp_path):
    status, out, err = skald("evaluate", imported)
    assert (status, out) == (2, "") and "was imported and has no validation text; name one (--text FILE" in err
    (tmp_path / "text.txt").write_text(TEXT)
    result = skald.json("evaluate", imported, "--text", tmp_path / "text.txt")
    assert (result["step"], result["window"], result["bytes"]) == (0, 96, len(TEXT))


def test_the_loss_is_that_of_transformers(skald, folder, imported, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = transformers.AutoTokenizer.from_pretrained(folder)(END + TEXT + END, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids, labels=ids).loss.item()
    assert skald.json("evaluate", imported, "--text", tmp_path / "text.txt")["loss"] == pytest.approx(
        expected, abs=1e-5
    )


def test_without_a_tokenizer_prompts_and_texts_are_ids(skald, folder, imported, tmp_path):
    bare = with_files(folder, tmp_path / "bare", tokenizer=None, tokenizer_config=None, generation_config=None)
    status, _, err = skald("import", bare, tmp_path / "run")
    assert status == 0 and "no tokenizer in it" in err and "prompts of this run are token ids" in err
    command = ["--max-new-tokens", "8", "--sampler", "greedy"]
    (sample,) = skald.json("generate", tmp_path / "run", "--prompt", "5 70 9", *command)["samples"]
    assert sample["text"].split() == [str(token) for token in sample["tokens"]]
    status, out, err = skald("generate", tmp_path / "run", "--prompt", "five", *command)
    assert (status, out) == (1, "") and "'five' at offset 0 is no id from 0 to 299" in err


def test_a_generation_config_decides_as_it_does_in_transformers(skald, folder, tmp_path):
    """Greedy text with what changes logits in every mode, as far as there are links for it.

    Ids that the model has and its tokenizer does not are suppressed, since transformers would write them.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = {
        "eos_token_id": 0,
        "max_new_tokens": 24,
        "min_new_tokens": 20,
        "sequence_bias": [[[30], 4.0], [[30, 31], 6.0], [[31, 30], -9.0]],
        "bad_words_ids": [[31, 31], [40], [0]],
        "suppress_tokens": [41, 42, *range(len(tokenizer), 300)],
    } | ({"repetition_penalty": 1.3} if "repetition_penalty" in LINKS else {})
    other = with_files(folder, tmp_path / "other", generation_config=config)
    status, _, err = skald("import", other, tmp_path / "run")
    assert status == 0 and "not applied" not in err
    model = transformers.AutoModelForCausalLM.from_pretrained(other)
    assert model.generation_config.min_new_tokens == 20
    for prompt in PROMPTS[:2]:
        (sample,) = skald.json("generate", tmp_path / "run", "--prompt", prompt)["samples"]
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = model.generate(ids, pad_token_id=0)[0, ids.shape[1] :].tolist()
        assert sample["tokens"] == written[: written.index(0) if 0 in written else None]
        assert 20 <= len(sample["tokens"]) <= 24 and 30 in sample["tokens"]


def test_each_end_token_of_a_generation_config_ends_a_text(skald, folder, imported, tmp_path):
    (free,) = skald.json("generate", imported, "--prompt", "The quick", "--max-new-tokens", "12")["samples"]
    ends = [299, free["tokens"][5]]
    other = with_files(folder, tmp_path / "ends", generation_config={"eos_token_id": ends})
    assert skald("import", other, tmp_path / "run")[0] == 0
    (sample,) = skald.json("generate", tmp_path / "run", "--prompt", "The quick", "--max-new-tokens", "12")["samples"]
    assert sample["tokens"] == free["tokens"][: free["tokens"].index(ends[1])] and sample["finish_reason"] == "stop"


def test_a_text_goes_on_behind_an_end_token_that_the_files_do_not_name(folder):
    """As in transformers, which reads no tokenizer for that; once the weights are trained here, it ends texts too."""
    own, config = find_tokenizer(folder, {}, 300), {"eos_token_id": 299}
    tokenizer, experiment = build_tokenizer(own, ()), shakespeare.default()
    named = {"generation_config": {"eos_token_id": [7, 299]}, "config": config}
    assert tokenizer.end_id == 0 and end_ids(None, named, tokenizer) == [7]
    assert end_ids(experiment, named, tokenizer) == [7, 0]
    assert end_ids(None, {"generation_config": None, "config": config}, tokenizer) == [0]


# --- trained further --------------------------------------------------------------------------------------------------

SHORT = ["--set", "steps=2", "--set", "evaluation.every=2", "--set", "checkpoints.every=2", "--set", "batch_size=2",
         "--set", "evaluation.samples=0"]  # fmt: skip


def test_training_takes_over_the_imported_model(skald, folder, imported, tmp_path):
    """On resumption too, with and without --from; and what is kept of the import goes with it. Whether prompts begin
    with the start token is left to the command line."""
    starts = not LoadedCheckpoint(str(imported)).tokenizer.start_prompts
    run, start = tmp_path / "tuned", ["train", skald.config, "--from", imported]
    status, _, err = skald(*start, "--run-dir", run, *SHORT, "--set", "model.dropout=0.25",
                           "--set", "optimizer.peak_rate=1e-12",
                           "--set", f"data.tokenizer.start_prompts={json.dumps(starts)}")  # fmt: skip
    assert status == 0, err
    assert "model.context: 96 as in the weights, not the config's 32" in err and "model.dropout" not in err
    assert err.count("model.layers") == 1 and "starting from the weights of" in err
    tuned, before = LoadedCheckpoint(str(run)), LoadedCheckpoint(str(imported))
    assert (tuned.model_config.dropout, before.model_config.dropout) == (0.25, 0.1)
    assert (
        tuned.config.data.tokenizer.kind == "json" and tuned.metadata["huggingface"] == before.metadata["huggingface"]
    )
    for one, other in zip(jax.tree.leaves(tuned.model), jax.tree.leaves(before.model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for steps, options in ((4, ["--from", imported, "--set", "model.dropout=0.25"]), (6, [])):
        more = [*SHORT, "--set", f"steps={steps}", "--set", "optimizer.peak_rate=1e-12"]
        status, _, err = skald("train", skald.config, "--run-dir", run, *options, *more)
        assert status == 0 and f"going on from step {steps - 2}" in err, err
        assert LoadedCheckpoint(str(run)).tokenizer.start_prompts == tuned.tokenizer.start_prompts == starts
    assert LoadedCheckpoint(str(run)).model_config == tuned.model_config


def test_what_does_not_go_with_an_import_is_refused_in_one_line(skald, folder, imported, tmp_path):
    small = with_files(folder, tmp_path / "small")
    larger = tokenizers.Tokenizer.from_file(str(small / "tokenizer.json"))
    larger.add_tokens([f"more{index}" for index in range(20)])
    larger.save(str(small / "tokenizer.json"))
    torn, adapters = with_files(folder, tmp_path / "torn"), tmp_path / "adapters"
    (torn / "chat_template.jinja").write_bytes(b"\xff\xfe")
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text("{}")
    run = ["--run-dir", tmp_path / "run"]
    commands = {
        ("import", folder, imported): "holds a run already; name a folder that is not there yet",
        ("import", tmp_path / "none", tmp_path / "run"): "none: no such folder; name a folder with config.json",
        ("import", small, tmp_path / "run"): "the tokenizer has 310 ids and the model 300",
        (
            "train",
            skald.config,
            "--run-dir",
            imported,
            *SHORT,
        ): "was imported, not trained; start a new run from it: --from",
        (
            "train",
            skald.config,
            "--from",
            imported,
            *run,
            "--set",
            "model.width=64",
        ): "do not fit this model (width: 32",
        (
            "train",
            skald.config,
            "--from",
            imported,
            *run,
            "--set",
            "data.length=200",
        ): "data.length: 200 is longer than",
        ("train", skald.config, "--from", imported, *run, "--set", "model.widht=6"): "no such field; did you mean",
        ("train", skald.config, "--from", folder, *run): f"a folder of Hugging Face's; skald import {folder} RUN makes",
        ("generate", folder, "--prompt", "a"): "a folder of Hugging Face's",
        ("import", adapters, tmp_path / "run"): "adapters: adapters alone; --base RUN names the run that they adapt",
        ("import", torn, tmp_path / "run"): "torn/chat_template.jinja: not text in UTF-8",
    }
    results = skald.run_many(list(commands))
    for (status, out, err), message in zip(results, commands.values(), strict=True):
        last = err.strip().splitlines()[-1]
        assert status in (1, 2) and out == "" and message in last and last.startswith("skald: "), err
    assert not (tmp_path / "run").exists()


def test_the_weights_of_a_run_are_those_of_the_folder(folder, imported):
    checkpoint = open_checkpoint(folder)
    expected = load_weights(checkpoint, import_mesh(checkpoint.model))
    found = LoadedCheckpoint(str(imported)).model
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))
