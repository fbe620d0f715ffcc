"""Adapter folders of PEFT against PEFT itself: logits of folders that it wrote, and of folders that it reads."""

import functools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import lora
from model.config import LoRA
from model.hf.config_reader import HuggingFaceError
from model.paths import flatten_by_path
from model.sharding import make_mesh
from train.huggingface.adapters import read_adapters, write_adapters
from train.huggingface.reading import load_weights, open_checkpoint

torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers peft")
transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
peft = pytest.importorskip("peft", reason="parity needs peft: pip install peft")

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]
VOCAB, LAYERS = 61, 2
MODULES = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "wte", "wpe", "lm_head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tied GPT-2 with random weights."""
    path = tmp_path_factory.mktemp("peft") / "base"
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 24, "n_layer": LAYERS, "n_head": 3}
    config = transformers.GPT2Config(**sizes, **ends)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(folder):
    return loaded(folder)


def loaded(folder):
    """(family, our model)"""
    checkpoint = open_checkpoint(folder)
    weights = load_weights(checkpoint, make_mesh({}, jax.devices()[:1]))
    return checkpoint.family, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), weights)


def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def write_theirs(folder, target, **options):
    """An adapter folder that PEFT wrote of random adapters, and the logits of the adapted model."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        **{"r": 3, "lora_alpha": 5, "target_modules": MODULES, "init_lora_weights": False, **options}
    )
    model = peft.get_peft_model(theirs(folder), config)
    model.save_pretrained(target)
    return their_logits(model)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (2, 20)).astype(np.int32)


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens(), dtype=torch.long)).logits.numpy()


@jax.jit
def logits(base, adapters):
    model = lora.combine(base, adapters)
    return model.logits(model.hidden(tokens()))


def test_adapters_that_peft_wrote_give_its_logits_and_go_back_as_they_came(folder, base, tmp_path):
    """Of joined query, key and value, tables, and the output of a tied model; merged too."""
    family, model = base
    expected = write_theirs(folder, tmp_path)
    choice, adapters = read_adapters(tmp_path, family, model)
    made = jax.eval_shape(lambda: lora.create_adapters(model.config, choice, jax.random.key(0)))
    shapes = [{path: x.shape for path, x in flatten_by_path(tree).items()} for tree in (adapters, made)]
    assert shapes[0] == shapes[1]
    assert (choice.rank, choice.alpha) == (3, 5.0) and "output" in choice.paths and "embedding.table" in choice.paths
    untied = lora.untie(model)
    assert np.abs(expected - logits(model, {})).max() > 0.5
    np.testing.assert_allclose(logits(untied, adapters), expected, atol=1e-4)
    np.testing.assert_allclose(logits(jax.jit(lora.merge)(untied, adapters), {}), expected, atol=1e-4)
    (tmp_path / "back").mkdir()
    write_adapters(tmp_path / "back", family, model, adapters)
    again, same = read_adapters(tmp_path / "back", family, model)
    assert again == choice
    assert all(map(np.array_equal, jax.tree.leaves(adapters), jax.tree.leaves(same)))


@pytest.mark.parametrize(
    "paths", [("*.query", "*.value", "*.up", "output"), ("*.mixer.*", "embedding.table", "*.down")]
)
def test_adapters_of_ours_give_the_same_logits_in_peft(folder, base, tmp_path, paths):
    """Query and value have a `down` each, and theirs one for both."""
    family, model = base
    choice = LoRA(2, 3.0, paths)
    adapters = jax.jit(functools.partial(lora.create_adapters, model.config, choice))(jax.random.key(0))
    random = np.random.default_rng(0)
    for adapter in adapters.values():
        adapter.up = adapter.up.replace(0.5 * random.standard_normal(adapter.up.shape, np.float32))
    write_adapters(tmp_path, family, model, adapters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = their_logits(peft.PeftModel.from_pretrained(theirs(folder), tmp_path))
    expected = logits(lora.untie(model), adapters)
    assert np.abs(expected - logits(model, {})).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_adapters_of_grouped_queries_and_gates_agree_with_peft_both_ways(tmp_path):
    """Llama: matrices transposed, fewer key-value heads than queries, tied."""
    folder, adapter_folder, back = (tmp_path / name for name in ("base", "adapters", "back"))
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"num_hidden_layers": LAYERS, "vocab_size": VOCAB, "tie_word_embeddings": True, "head_dim": 8}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    targets = [*(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "down")), "embed_tokens", "lm_head"]
    expected = write_theirs(folder, adapter_folder, target_modules=targets)
    family, model = loaded(folder)
    _, adapters = read_adapters(adapter_folder, family, model)
    np.testing.assert_allclose(logits(lora.untie(model), adapters), expected, atol=1e-4)
    back.mkdir()
    write_adapters(back, family, model, adapters)
    np.testing.assert_allclose(their_logits(peft.PeftModel.from_pretrained(theirs(folder), back)), expected, atol=1e-4)


def test_layers_without_an_adapter_get_zeros(folder, base, tmp_path):
    family, model = base
    expected = write_theirs(folder, tmp_path, target_modules=["mlp.c_fc"], layers_to_transform=[1], layers_pattern="h")
    choice, adapters = read_adapters(tmp_path, family, model)
    assert choice.paths == ("stacks.0.pattern.0.feed_forward.up",)
    up = adapters[choice.paths[0]].up[...]
    assert not up[0].any() and up[1].any()
    np.testing.assert_allclose(logits(model, adapters), expected, atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"use_dora": True, "target_modules": ["mlp.c_fc"]}, "use_dora=True: not built; plain LoRA is"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"rank_pattern": {"mlp.c_fc": 2}, "alpha_pattern": {"wte": 2}}, "alpha_pattern={'wte': 2}, rank_pattern="),
        ({"modules_to_save": ["ln_f"]}, "modules_to_save=['ln_f']"),
        ({"bias": "all"}, "bias='all'"),
        ({"init_lora_weights": "olora", "target_modules": ["lm_head"]}, "init_lora_weights='olora' may have changed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_built_is_refused_by_name(folder, base, tmp_path, options, message):
    write_theirs(folder, tmp_path, **options)
    with pytest.raises(HuggingFaceError) as error:
        read_adapters(tmp_path, *base)
    assert message in str(error.value) and "adapter_config.json" in str(error.value) and "\n" not in str(error.value)


def changed(**values):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
        (lambda folder: (folder / "adapter_config.json").write_text("[1]"), "not the config of adapters"),
        (pickled, "a pickle, which may run any program"),
        (changed(r=4), "A of transformer.wte is [3, 61], not [4, 61]"),
        (changed(r=0), "r=0, lora_alpha=5"),
        (changed(peft_type="IA3"), "peft_type='IA3' is not built; LORA is"),
        (changed(new_kind_of_lora=1), "new_kind_of_lora=1: not built"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, base, tmp_path, damage, message):
    write_theirs(folder, tmp_path)
    damage(tmp_path)
    with pytest.raises(HuggingFaceError) as error:
        read_adapters(tmp_path, *base)
    assert message in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_adapters_of_another_base_are_refused(folder, base, tmp_path):
    family, model = base
    write_theirs(folder, tmp_path)
    other = jax.tree.map(lambda x: x + 1, model)
    with pytest.raises(HuggingFaceError, match=r"its transformer.wte.weight is not the base's"):
        read_adapters(tmp_path, family, other)
