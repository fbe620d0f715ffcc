"""`skald export`: transformers and Skald read what it writes, and what is not as good as the run never appears."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from launch.api import load
from launch.inference.export import export_checkpoint
from launch.inference.whole_folder import whole_folder
from model.config import Attention
from model.hf.families import FAMILIES, read_config
from model.hf.layouts import Joined, Linear
from model.hf.llama import LLAMA
from model.paths import flatten_by_path
from train.checkpoint_folder import METADATA
from train.huggingface.writing import ExportError, rounded

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.timeout(300)
CONFIG = '''"""A tiny GPT-2 on a tenth of Shakespeare."""

from dataclasses import replace

from configs import gpt2, shakespeare
from data.config import Span
from model.config import Init
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer


def default() -> Experiment:
    base = shakespeare.default()
    return replace(
        base,
        name="tiny-gpt2",
        model=replace(gpt2.gpt2(2, 32, 4), vocab_size=65, context=64, init=Init(embedding=0.02)),
        data=replace(base.data, length=64, train=Span(0, 0.09), validation=Span(0.09, 0.1)),
        optimizer=Optimizer(peak_rate=0.003, rule=AdamW()),
        steps=30,
        batch_size=8,
        evaluation=Evaluation(every=30, rows=64, samples=0),
        checkpoints=Checkpoints(every=30),
    )
'''


@pytest.fixture(scope="session")
def gpt2_run(skald, shared_folder) -> Path:
    """A trained run of a shape that a family of transformers has."""
    folder = shared_folder / "trained-gpt2"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            config = skald.folder / "tiny_gpt2.py"
            config.write_text(CONFIG)
            status, _, err = skald("train", config, "--run-dir", shared_folder / "unfinished-gpt2")
            assert status == 0, err
            (shared_folder / "unfinished-gpt2").rename(folder)
    return folder


@pytest.fixture(scope="module")
def exported(skald, gpt2_run, tmp_path_factory) -> Path:
    """The run as the command writes it."""
    folder = tmp_path_factory.mktemp("exported") / "gpt2"
    found = skald.json("export", gpt2_run, folder)
    assert found["architecture"] == "GPT2LMHeadModel" and found["dtype"] == "float32" and not found["notes"]
    assert found["difference"] == 0.0 and found["transformers_difference"] < 1e-5
    assert sorted(found["files"]) == sorted(file.name for file in folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def run(gpt2_run):
    return load(str(gpt2_run))


@pytest.fixture(scope="module")
def theirs(exported):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def test_transformers_loads_it_as_it_is_and_computes_the_runs_logits(run, theirs):
    tokens = np.random.default_rng(1).integers(0, 65, (3, 64))
    with torch.inference_mode():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(run.logits(tokens), expected, atol=1e-4)


def test_transformers_writes_the_runs_greedy_text_and_no_default_token_ends_it(run, theirs, exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert theirs.config.eos_token_id is None and theirs.generation_config.eos_token_id is None
    for prompt in ("ROMEO:", "\n", "What, ho!  "):
        given = tokenizer(prompt, return_tensors="pt")
        found = theirs.generate(**given, max_new_tokens=32, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(found[0])
        assert text == prompt + run.generate(prompt, sampler="greedy", max_new_tokens=32)[0]["text"]


def test_the_tokenizers_ids_are_the_runs(run, exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = "  First Citizen:\n\nBefore we proceed & speak -- $3; 'Zounds!\n"
    assert tokenizer(text).input_ids == run.tokenizer.encode(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_model_card_says_where_the_model_comes_from(exported):
    card = (exported / "README.md").read_text()
    header = card.split("---\n")[1]
    assert "library_name: transformers\n" in header and "license" not in header
    for part in ("tiny-gpt2", "step 30", "29,600 parameters", "nats a token", "source `", "GPT2LMHeadModel"):
        assert part in card


def test_weights_come_back_to_the_last_bit(skald, run, exported, tmp_path):
    skald.json("import", exported, tmp_path / "run")
    imported = load(str(tmp_path / "run"))
    found, expected = flatten_by_path(imported.model), flatten_by_path(run.model)
    assert imported.model_config == run.model_config and found.keys() == expected.keys()
    for path, array in expected.items():
        assert np.asarray(array).tobytes() == np.asarray(found[path]).tobytes(), path
    request = {"prompt": "KING", "sampler": "greedy", "max_new_tokens": 24}
    assert imported.generate(**request)[0]["text"] == run.generate(**request)[0]["text"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_and_many_files_hold_each_number_rounded_to_the_nearest(run, exported, dtype, tmp_path):
    found = run.export(tmp_path / "small", dtype=dtype, shard_size=20_000)
    shards = sorted((tmp_path / "small").glob("model-*.safetensors"))
    assert len(shards) > 2 and shards[-1].name.endswith(f"of-{len(shards):05d}.safetensors")
    tensors = {name: tensor for shard in shards for name, tensor in safetensors_torch.load_file(shard).items()}
    expected = safetensors_torch.load_file(exported / "model.safetensors")
    assert tensors.keys() == expected.keys() and "lm_head.weight" not in tensors
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor.to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "small" / "config.json").read_text())["dtype"] == dtype
    assert found["dtype"] == dtype and found["transformers_difference"] < 1e-5


def test_a_run_that_can_not_be_written_and_a_folder_that_is_there_are_refused(skald, gpt2_run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    status, out, err = skald("export", gpt2_run, tmp_path / "taken")
    assert status == 1 and out == "" and "taken: is there already" in err
    status, out, err = skald("export", f"{gpt2_run}@7", tmp_path / "out")
    assert status == 2 and out == "" and "no such checkpoint" in err and "@30" in err
    status, out, err = skald("export", gpt2_run, tmp_path / "out", "--adapters")
    assert status == 1 and out == "" and "has no adapters" in err
    assert [file.name for file in tmp_path.iterdir()] == ["taken"] and len(list((tmp_path / "taken").iterdir())) == 1


def test_what_no_architecture_computes_is_refused_with_the_field_in_its_way(skald, gpt2_run, tmp_path):
    run = Path(shutil.copytree(gpt2_run, tmp_path / "run"))
    file = run / "checkpoints" / "30" / METADATA
    text = file.read_text()
    assert '"token_shift": 0.0' in text
    file.write_text(text.replace('"token_shift": 0.0', '"token_shift": 0.5'))
    status, out, err = skald("export", run, tmp_path / "out")
    assert status == 2 and out == "" and not (tmp_path / "out").exists() and err.count("\n") == 1
    assert "no architecture of transformers" in err and "GPT2LMHeadModel" in err and "layers.0.token_shift=0.5" in err


def random_gpt2(folder: Path, dtype: str, shard_size: str) -> None:
    """A GPT-2 of transformers' own making, with the files of a tokenizer and more that is no model."""
    sizes = {"n_embd": 24, "n_head": 3, "n_layer": 3, "n_positions": 40, "vocab_size": 65}
    ends = {"bos_token_id": 3, "eos_token_id": 5, "initializer_range": 0.2, "summary_type": "mean"}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends)).to(getattr(torch, dtype))
    model.transformer.ln_f.bias.data[:3] = torch.tensor([1e-40, 6e-8, -0.0])  # the smallest numbers are kept too
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7], "temperature": 0.6, "do_sample": true}')


def tensors_of(folder: Path) -> dict:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in safetensors_torch.load_file(file).items()
    }


@pytest.mark.parametrize(
    "dtype, shard_size",
    [("float32", "20KB"), ("bfloat16", "5GB"), pytest.param("float16", "9KB", marks=pytest.mark.slow(10))],
)
def test_a_folder_that_was_imported_is_given_back(skald, dtype, shard_size, tmp_path):
    torch.manual_seed(0)
    random_gpt2(tmp_path / "theirs", dtype, shard_size)
    skald.json("import", tmp_path / "theirs", tmp_path / "run")
    found = export_checkpoint(str(tmp_path / "run"), tmp_path / "ours", shard_size=30_000)
    assert found.dtype == dtype and found.notes == ("the run's data are token ids: no tokenizer was written",)
    expected, tensors = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].view(torch.uint8).equal(tensor.view(torch.uint8)), name
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours")]
    assert read_config(configs[0]) == read_config(configs[1])
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "dtype"):
        assert configs[0].get(key) == configs[1].get(key), key
    generation = [(tmp_path / name / "generation_config.json").read_text() for name in ("theirs", "ours")]
    assert json.loads(generation[0]) == json.loads(generation[1])


def test_numbers_beyond_a_dtype_are_refused_by_name():
    assert rounded(np.array([65504.0], np.float32), "float16", "a.weight")[0] == 65504
    with pytest.raises(ExportError, match=r"^a\.weight goes up to 70,000, and float16 only to 65,504; take --dtype"):
        rounded(np.array([1.0, -7e4], np.float32), "float16", "a.weight")
    with pytest.raises(ExportError, match=r"^a\.weight holds numbers that are not finite"):
        rounded(np.array([np.nan], np.float32), "bfloat16", "a.weight")


def interleaved(tensors):
    """Rows in the order 0, half, 1, half + 1, …: what others' exports have done to rotary halves."""
    return [np.ascontiguousarray(t.reshape(2, -1, *t.shape[1:]).swapaxes(0, 1).reshape(t.shape)) for t in tensors]


def test_a_writer_that_permutes_is_caught_by_reading_again(gpt2_run, tmp_path, monkeypatch):
    right = Joined.to_theirs
    monkeypatch.setattr(Joined, "to_theirs", lambda self, arrays: interleaved(right(self, arrays)))
    with pytest.raises(ExportError, match=r"^Skald reads logits .* nothing was published"):
        export_checkpoint(str(gpt2_run), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class RotaryPairs(Linear):
    """Linear, but with the features of each head of 8 in another order, there and back: rotary pairs side by side."""

    def to_theirs(self, arrays):
        (tensor,) = super().to_theirs(arrays)
        return [np.ascontiguousarray(tensor.reshape(-1, 2, 4, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape))]

    def to_ours(self, tensors, shapes):
        (tensor,) = tensors
        return super().to_ours(
            [tensor.reshape(-1, 4, 2, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)], shapes
        )


def test_rotary_halves_that_are_interleaved_both_ways_are_caught_by_transformers(skald, tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 65, "max_position_embeddings": 48}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.3))
    theirs.save_pretrained(tmp_path / "theirs")
    skald.json("import", tmp_path / "theirs", tmp_path / "run")
    entries = tuple(
        entry._replace(layout=RotaryPairs()) if entry.ours in ("mixer.query", "mixer.key") else entry
        for entry in LLAMA.tables[Attention]
    )
    family = dataclasses.replace(LLAMA, tables={**LLAMA.tables, Attention: entries})
    assert export_checkpoint(str(tmp_path / "run"), tmp_path / "right").transformers_difference < 1e-4
    monkeypatch.setitem(FAMILIES, "llama", family)
    with pytest.raises(ExportError, match=r"^transformers reads logits .* nothing was published"):
        export_checkpoint(str(tmp_path / "run"), tmp_path / "wrong")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["right", "run", "theirs"]


def test_a_killed_export_leaves_no_folder_and_the_next_one_succeeds(skald, gpt2_run, tmp_path):
    process = skald.start("export", gpt2_run, tmp_path / "out")
    while not (tmp_path / "out.partial" / "model.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert [file.name for file in tmp_path.iterdir()] == ["out.partial"]
    export_checkpoint(str(gpt2_run), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_leaves_nothing(skald, gpt2_run, mount_disk):
    disk = mount_disk("size=64k")
    status, _, err = skald("export", gpt2_run, disk / "out")
    assert status == 1 and "takes 0.1 MB and the disk has 0.1 MB left" in err and err.count("\n") == 1
    line = "out: no space left on its disk; nothing of it was kept"
    with pytest.raises(ExportError, match=line), whole_folder(disk / "out") as partial:
        (partial / "model.safetensors").write_bytes(bytes(70_000))
    assert list(disk.iterdir()) == []
