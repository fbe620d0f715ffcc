"""Folders of Hugging Face, as transformers writes them and damaged, read onto one device and onto eight."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.hf.config_reader import HuggingFaceError
from model.sharding import make_mesh
from train.huggingface.reading import import_mesh, load_weights, open_checkpoint

torch = pytest.importorskip("torch", reason="folders are made with torch: pip install torch transformers")
transformers = pytest.importorskip(
    "transformers", reason="folders are made with transformers: pip install transformers"
)

WIDTH, VOCAB = 24, 61
pytestmark = pytest.mark.timeout(120)


def gpt2(**changes):
    sizes = {"n_embd": WIDTH, "n_head": 4, "n_layer": 3, "n_positions": 32, "vocab_size": VOCAB}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, **changes)
    ).eval()


@pytest.fixture(scope="module")
def theirs():
    return gpt2()


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface") / "gpt2"
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(saved, tmp_path / "gpt2"))


@pytest.fixture
def sharded(theirs, tmp_path) -> Path:
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    return tmp_path / "sharded"


def one_device_mesh():
    return make_mesh({"data": 1}, jax.devices()[:1])


def load(folder: Path):
    checkpoint = open_checkpoint(folder)
    return load_weights(checkpoint, one_device_mesh())


def assert_same_logits(folder: Path, model) -> None:
    """Within 1e-4 of what transformers computes with the same folder, in float32."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 32))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    found = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens)))(model, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_one_file_and_many_shards_are_the_same_model(saved, sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 4
    one, many = load(saved), load(sharded)
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(many)))
    assert_same_logits(saved, one)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_becomes_float32_without_a_change(theirs, tmp_path, dtype):
    half = gpt2().to(getattr(torch, dtype))
    half.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert open_checkpoint(tmp_path).dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype(np.float32)}
    expected = half.transformer.wte.weight.detach().float().numpy()
    np.testing.assert_array_equal(model.embedding.table[...], expected)
    assert np.any(expected != theirs.transformer.wte.weight.detach().numpy())


@pytest.mark.parametrize("width, shares", [(WIDTH, 8), (20, 4)])
def test_eight_devices_hold_what_one_holds(tmp_path, width, shares):
    gpt2_of_width = transformers.GPT2Config(n_embd=width, n_head=2, n_layer=2, n_positions=16, vocab_size=VOCAB)
    transformers.GPT2LMHeadModel(gpt2_of_width).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    mesh = import_mesh(checkpoint.model)
    assert mesh.shape["data"] == shares and mesh.devices.size == 8
    many, one = load_weights(checkpoint, mesh), load_weights(checkpoint, one_device_mesh())
    table = many.embedding.table[...]
    assert table.addressable_shards[0].data.shape == (VOCAB, width // shares)
    assert all(map(np.array_equal, jax.tree.leaves(many), jax.tree.leaves(one)))


def test_names_without_the_prefix_and_old_buffers_are_read(saved, folder):
    def as_the_bare_model(tensors: dict) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 32, 32), np.bool_)
        tensors["h.0.attn.masked_bias"] = np.full(1, -1e4, np.float32)

    change_tensors(folder, as_the_bare_model)
    assert all(map(np.array_equal, jax.tree.leaves(load(folder)), jax.tree.leaves(load(saved))))


def test_an_output_beside_a_tied_config_is_ignored_where_it_is_the_table(saved, folder):
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].copy()}))
    assert open_checkpoint(folder).model.tied and not open_checkpoint(folder).warnings
    assert all(map(np.array_equal, jax.tree.leaves(load(folder)), jax.tree.leaves(load(saved))))


def test_an_output_beside_a_tied_config_is_taken_where_it_differs(folder):
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"] + 0.1}))
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.model.tied
    assert checkpoint.warnings == (
        "lm_head.weight differs from transformer.wte.weight: taken as two, though config.json ties them",
    )
    assert_same_logits(folder, load(folder))


def test_an_untied_model_is_theirs(tmp_path):
    gpt2(tie_word_embeddings=False).save_pretrained(tmp_path)
    assert_same_logits(tmp_path, load(tmp_path))


# --- what is refused, in one line -------------------------------------------------------------------------------------


def remove_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def three_faults(folder: Path) -> None:
    def change(tensors: dict) -> None:
        tensors["transformer.h.0.adapter"] = tensors.pop("transformer.h.1.ln_1.bias")
        tensors["transformer.wpe.weight"] = np.zeros((31, WIDTH), np.float32)
        tensors["transformer.ln_f.bias"] = np.zeros(WIDTH, np.float64)

    change_tensors(folder, change)


def as_index(weight_map) -> str:
    return json.dumps({"metadata": {}, "weight_map": weight_map})


def write_index(weight_map):
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(as_index(weight_map))

    return damage


BAD_FOLDERS = {
    "no folder": (shutil.rmtree, "no such folder; name a folder with config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "no JSON": (lambda f: (f / "config.json").write_text('{"model_type": '), "config.json: not JSON (Expecting value"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "config.json: not a JSON object"),
    "unknown key": (lambda f: change_json(f / "config.json", rotary_dim=8), "unknown to Skald: rotary_dim=8"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors in it, and no model.safet"),
    "pickle": (remove_safetensors, "pytorch_model.bin: a pickle, which may run any program"),
    "truncated": (truncate, "model.safetensors: not a whole safetensors file"),
    "garbage": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "not a whole safetensors file"),
    "no index": (write_index([]), "model.safetensors.index.json: not an index of shards"),
    "missing shard": (write_index({"a": "other.safetensors"}), "names other.safetensors, which is not there"),
    "another folder": (write_index({"a": "../part.safetensors"}), "'../part.safetensors' is no file of this folder"),
    "not in its shard": (write_index({"a": "part.safetensors"}), "a is not in part.safetensors"),
    "missing": (three_faults, "missing: transformer.h.1.ln_1.bias; "),
    "extra": (three_faults, "extra: transformer.h.0.adapter; "),
    "misshapen": (three_faults, "of another shape: transformer.wpe.weight is [31, 24], not [32, 24]; "),
    "format": (three_faults, "(float32, bfloat16 and float16 are): transformer.ln_f.bias is F64"),
}


@pytest.mark.parametrize("damage, message", BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_folder_that_cannot_be_read_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(HuggingFaceError) as raised:
        open_checkpoint(folder)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_command_that_converts_a_pickle_works(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path)
    with pytest.raises(HuggingFaceError) as raised:
        open_checkpoint(tmp_path)
    program = str(raised.value).split('python -c "')[1].rstrip('"')
    exec(program)
    assert_same_logits(tmp_path, load(Path(f"{tmp_path}-safetensors")))
