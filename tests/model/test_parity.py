"""Our Transformer against random small models of Hugging Face transformers, the weights copied inside the test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.transformer import Transformer

torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")

VOCAB, CONTEXT, LAYERS = 61, 48, 2
pytestmark = pytest.mark.timeout(120)


def gpt2(width: int, heads: int):
    """A random GPT-2 and our config of the same function."""
    sizes = {"n_embd": width, "n_head": heads, "n_layer": LAYERS, "n_positions": CONTEXT, "vocab_size": VOCAB}
    weight_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": None}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **weight_dropout))
    norm = c.Norm("layer", bias=True)
    attention = c.Attention(heads, heads, width // heads, bias=True, output_bias=True)
    block = c.Block(attention, c.MLP(4 * width, "gelu_tanh", bias=True), norm)
    stack = c.Stack((block,), LAYERS)
    ours = c.Model(VOCAB, width, CONTEXT, (stack,), positions=c.Learned(), final_norm=norm)
    return randomized(theirs), ours


def llama(width: int, heads: int, kv_heads: int, tied: bool):
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    sizes |= {"intermediate_size": 3 * width, "num_hidden_layers": LAYERS, "max_position_embeddings": CONTEXT}
    ends = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}
    config = transformers.LlamaConfig(
        **sizes, **ends, vocab_size=VOCAB, rms_norm_eps=1e-6, tie_word_embeddings=tied, attention_dropout=0.0
    )
    norm = c.Norm("rms", epsilon=1e-6)
    block = c.Block(c.Attention(heads, kv_heads, width // heads, rope=c.Rope()), c.MLP(3 * width, gated=True), norm)
    ours = c.Model(VOCAB, width, CONTEXT, (c.Stack((block,), LAYERS),), final_norm=norm, tied=tied)
    return randomized(transformers.LlamaForCausalLM(config)), ours


def randomized(theirs):
    """Biases and norms away from zero and one too, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return theirs.eval()


def from_gpt2(tensors: dict, config: c.Model) -> dict:
    """Their tensors under our names and in our shapes; a block's parameters have the layers in front."""
    mixer = config.layers[0].pattern[0].mixer
    heads, size, width = mixer.heads, mixer.head_width, config.width

    def layer(index):
        given = {k.split(f"h.{index}.")[1]: v for k, v in tensors.items() if f"h.{index}." in k}
        joined, bias = given["attn.c_attn.weight"], given["attn.c_attn.bias"]
        found = {}
        for i, name in enumerate(("query", "key", "value")):
            found[f"mixer.{name}"] = joined[:, i * width : (i + 1) * width].reshape(width, heads, size)
            found[f"mixer.{name}_bias"] = bias[i * width : (i + 1) * width].reshape(heads, size)
        found["mixer.output"] = given["attn.c_proj.weight"].reshape(heads, size, width)
        found["mixer.output_bias"] = given["attn.c_proj.bias"]
        for theirs, ours in {"ln_1": "mixer_norm", "ln_2": "feed_forward_norm"}.items():
            found |= {f"{ours}.scale": given[f"{theirs}.weight"], f"{ours}.bias": given[f"{theirs}.bias"]}
        for theirs, ours in {"mlp.c_fc": "up", "mlp.c_proj": "down"}.items():
            found[f"feed_forward.{ours}"] = given[f"{theirs}.weight"]
            found[f"feed_forward.{ours}_bias"] = given[f"{theirs}.bias"]
        return found

    outside = {"embedding.table": "wte.weight", "positions.table": "wpe.weight"}
    outside |= {"final_norm.scale": "ln_f.weight", "final_norm.bias": "ln_f.bias"}
    return stacked(layer) | {ours: tensors[f"transformer.{theirs}"] for ours, theirs in outside.items()}


def from_llama(tensors: dict, config: c.Model) -> dict:
    mixer = config.layers[0].pattern[0].mixer

    def layer(index):
        given = {k.split(f"layers.{index}.")[1]: v for k, v in tensors.items() if f"layers.{index}." in k}
        found = {"mixer_norm.scale": given["input_layernorm.weight"]}
        found["feed_forward_norm.scale"] = given["post_attention_layernorm.weight"]
        for name, heads in {"query": mixer.heads, "key": mixer.kv_heads, "value": mixer.kv_heads}.items():
            matrix = given[f"self_attn.{name[0]}_proj.weight"].T
            found[f"mixer.{name}"] = matrix.reshape(config.width, heads, mixer.head_width)
        matrix = given["self_attn.o_proj.weight"].T
        found["mixer.output"] = matrix.reshape(mixer.heads, mixer.head_width, config.width)
        return found | {f"feed_forward.{name}": given[f"mlp.{name}_proj.weight"].T for name in ("gate", "up", "down")}

    found = stacked(layer) | {"embedding.table": tensors["model.embed_tokens.weight"]}
    found["final_norm.scale"] = tensors["model.norm.weight"]
    return found if config.tied else found | {"output": tensors["lm_head.weight"].T}


def stacked(layer) -> dict:
    layers = [layer(index) for index in range(LAYERS)]
    return {f"stacks.0.pattern.0.{name}": np.stack([one[name] for one in layers]) for name in layers[0]}


def parameter(model, path: str):
    return functools.reduce(lambda part, name: part[int(name)] if name.isdigit() else getattr(part, name),
                            path.split("."), model)  # fmt: skip


CASES = {
    "gpt2, 4 heads of 8": (functools.partial(gpt2, 32, 4), from_gpt2),
    "gpt2, 6 heads of 4": (functools.partial(gpt2, 24, 6), from_gpt2),
    "llama, 4 heads over 4, tied": (functools.partial(llama, 32, 4, 4, True), from_llama),
    "llama, 4 heads over 2, untied": (functools.partial(llama, 32, 4, 2, False), from_llama),
    "llama, 4 heads over 1, untied": (functools.partial(llama, 32, 4, 1, False), from_llama),
}


@pytest.fixture(params=CASES, scope="module")
def both(request):
    """Their model, ours with its weights, and the name table."""
    make, table = CASES[request.param]
    torch.manual_seed(0)
    theirs, config = make()
    ours = jax.jit(lambda: Transformer(config, jax.random.key(0)))()
    mapped = table({name: tensor.detach().numpy() for name, tensor in theirs.named_parameters()}, config)
    for path, value in mapped.items():
        assert parameter(ours, path)[...].shape == value.shape, path
        parameter(ours, path)[...] = jnp.asarray(value)
    assert len(mapped) == len(jax.tree.leaves(ours)), "a parameter of ours stands in no table"
    return theirs, ours, functools.partial(table, config=config)


def tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (rows, length))


def distance(ours, theirs) -> float:
    """Relative to the size of theirs."""
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


def test_logits_are_those_of_hugging_face(both):
    theirs, ours, _ = both
    given = tokens(3, CONTEXT)
    expected = theirs(torch.tensor(given)).logits.detach().numpy()
    found = jax.jit(lambda model, x: model.logits(model.hidden(x)))(ours, given)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_loss_and_every_gradient_are_those_of_hugging_face(both):
    theirs, ours, table = both
    given = tokens(2, CONTEXT)
    theirs.zero_grad()
    expected = theirs(torch.tensor(given), labels=torch.tensor(given)).loss
    expected.backward()

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradients(model):
        log_probability = jax.nn.log_softmax(model.logits(model.hidden(given))[:, :-1])
        return -jnp.take_along_axis(log_probability, given[:, 1:, None], axis=-1).mean()

    loss, gradients = loss_and_gradients(ours)
    assert abs(loss - expected.item()) < 1e-4
    for path, gradient in table({name: tensor.grad.numpy() for name, tensor in theirs.named_parameters()}).items():
        found = parameter(gradients, path)[...]
        if "key_bias" in path:  # exactly zero in theory: softmax does not see a shift of all its scores
            np.testing.assert_allclose(found, gradient, atol=1e-5)
        else:
            assert distance(found, gradient) < 1e-4, path


def test_greedy_text_is_that_of_hugging_face(both):
    theirs, ours, _ = both
    prompts = [tokens(1, length)[0].tolist() for length in (1, 9, 20)]
    found = Generator(ours, vocab_size=VOCAB, context=CONTEXT).generate(
        prompts, chain=parse_chain("greedy"), max_new_tokens=20
    )
    for prompt, row in zip(prompts, found, strict=True):
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0
        )
        assert row.tokens == expected[0, len(prompt) :].tolist()
