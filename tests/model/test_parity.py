"""Every family of model/hf against random small models of Hugging Face transformers: the weights go through the name
tables that import and export use, so that these are what is proven."""

import copy
import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_configs import LENGTH, SPACES, VOCAB
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.hf.families import read_config
from model.hf.family import Family, Tensors, tensor_map
from model.paths import parameters_by_path
from model.transformer import Transformer

torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
safetensors = pytest.importorskip("safetensors.numpy", reason="parity needs safetensors: pip install safetensors")

NEW_TOKENS = 32
torch.set_num_threads(1)  # more would wait for each other longer than such small models take
pytestmark = pytest.mark.timeout(300)
drawn = functools.partial(
    settings, derandomize=True, deadline=None, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


class Pair(NamedTuple):
    """Their random model and ours of the same config; `table` says where its tensors, by name, stand in ours."""

    theirs: torch.nn.Module
    ours: Transformer
    family: Family
    table: list[Tensors]
    tensors: dict[str, np.ndarray]


def build(config: dict) -> Pair:
    theirs = random_model(config)
    family, model = read_config(config)
    empty = jax.eval_shape(lambda: Transformer(model, jax.random.key(0)))
    table = tensor_map(family, model, set(parameters_by_path(empty)))
    tensors = as_saved(theirs)
    named = {name for row in table for name in row.theirs}
    assert set(tensors) == named, f"{set(tensors) ^ named}"
    return Pair(theirs, with_tensors(empty, table, tensors), family, table, tensors)


def random_model(config: dict):
    """Their model, with biases and norms away from zero and one, so that a forgotten one shows, and with matrices so
    large that logits are of order 1 to 10."""
    keys = {key: value for key, value in copy.deepcopy(config).items() if key != "model_type"}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if config["model_type"] == "gpt2" else {}
    settled = transformers.AutoConfig.for_model(config["model_type"], **keys, **dropouts)
    plain = {"attn_implementation": "eager"}  # the others leave out Gemma 2's caps
    plain |= {"experts_implementation": "eager"} if config["model_type"] == "mixtral" else {}
    theirs = transformers.AutoModelForCausalLM.from_config(settled, **plain)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            size = 0.1 if parameter.ndim == 1 else 1.4 * max(parameter.shape[-2:]) ** -0.5
            parameter.add_(size * torch.randn(parameter.shape, generator=noise))
    return theirs.eval()


def as_saved(theirs) -> dict[str, np.ndarray]:
    """A model's tensors under the names and in the shapes in which transformers writes them to a file."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return safetensors.load_file(Path(folder) / "model.safetensors")


def gradients_as_saved(theirs) -> dict[str, np.ndarray]:
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    return as_saved(theirs)


def with_tensors(model: Transformer, table: list[Tensors], tensors: dict[str, np.ndarray]) -> Transformer:
    """The model with these tensors of theirs as its parameters."""
    parameters = parameters_by_path(model)
    values = {path: np.full(parameter.shape, np.nan, np.float32) for path, parameter in parameters.items()}
    for row in table:
        places = [values[slot.path] if slot.layer is None else values[slot.path][slot.layer] for slot in row.ours]
        arrays = row.layout.to_ours([tensors[name] for name in row.theirs], [place.shape for place in places])
        for place, array in zip(places, arrays, strict=True):
            place[...] = array
    filled = iter([parameter.replace(jnp.asarray(values[path])) for path, parameter in parameters.items()])
    is_parameter = lambda x: hasattr(x, "axes")  # noqa: E731
    return jax.tree.map(lambda _: next(filled), model, is_leaf=is_parameter)


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def loss_and_logits(model, tokens_BT):
    logits_BTV = model.logits(model.hidden(tokens_BT))
    log_probability = jax.nn.log_softmax(logits_BTV[:, :-1])
    return -jnp.take_along_axis(log_probability, tokens_BT[:, 1:, None], axis=-1).mean(), logits_BTV


def random_tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (rows, length)).astype(np.int32)


class Differences(NamedTuple):
    logits: float  # the largest
    gradient: float  # the largest, relative to its tensor's norm


def compare(config: dict, prompt: int) -> Differences:
    """Everything of one random model: logits, loss, gradients, greedy text, and that exchanged tensors are seen."""
    pair = build(config)
    (loss, logits), gradients = loss_and_logits(pair.ours, random_tokens(2, LENGTH))
    expected_loss, expected_logits = their_loss_and_logits(pair.theirs, random_tokens(2, LENGTH))
    size = np.abs(expected_logits).max()
    assert 1 < size < 50, f"logits of this size prove little: {size}"
    logit_difference = np.abs(logits - expected_logits).max()
    assert logit_difference < 1e-4
    assert abs(loss - expected_loss) < 1e-5
    check_greedy_text(pair, prompt)
    check_exchanged_tensors_are_seen(pair, logits)
    return Differences(float(logit_difference), gradient_difference(pair, gradients))


def their_loss_and_logits(theirs, tokens_BT: np.ndarray) -> tuple[float, np.ndarray]:
    given = torch.tensor(tokens_BT, dtype=torch.long)
    out = theirs(given, labels=given)
    out.loss.backward()
    return out.loss.item(), out.logits.detach().numpy()


def check_greedy_text(pair: Pair, prompt: int) -> None:
    """32 tokens behind a prompt of this length: theirs with a cache, ours with a cache, and ours from whole rows."""
    prompts = random_tokens(2, prompt)
    given = torch.tensor(prompts, dtype=torch.long)
    rows = pair.theirs.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0
    ).numpy()
    expected = rows[:, prompt:].tolist()
    generator = Generator(pair.ours, vocab_size=VOCAB, context=LENGTH)
    found = generator.generate(prompts.tolist(), chain=parse_chain("greedy"), max_new_tokens=NEW_TOKENS)
    assert [row.tokens for row in found] == expected
    padded = np.pad(rows, ((0, 0), (0, LENGTH - rows.shape[1]))).astype(np.int32)
    (_, logits), _ = loss_and_logits(pair.ours, padded)
    assert jnp.argmax(logits, axis=-1)[:, prompt - 1 : prompt - 1 + NEW_TOKENS].tolist() == expected


def check_exchanged_tensors_are_seen(pair: Pair, logits) -> None:
    """Query for key, gate for up, halves of heads for interleaved pairs: the shapes fit, the logits do not."""
    for change in (exchange_query_and_key, exchange_gate_and_up, interleave_rotary_pairs):
        changed = change(pair)
        if changed:
            ours = with_tensors(pair.ours, pair.table, pair.tensors | changed)
            (_, found), _ = loss_and_logits(ours, random_tokens(2, LENGTH))
            assert np.abs(found - logits).max() > 1e-2, change.__name__


def exchange_query_and_key(pair: Pair) -> dict[str, np.ndarray]:
    """What changes where the tensors of query and key are exchanged; nothing if they have other shapes."""
    if pair.family.model_type == "gpt2":
        joined = {name: np.split(x, 3, 1) for name, x in pair.tensors.items() if "c_attn.weight" in name}
        return {name: np.concatenate([key, query, value], 1) for name, (query, key, value) in joined.items()}
    return exchange(pair.tensors, "q_proj.weight", "k_proj.weight")


def exchange_gate_and_up(pair: Pair) -> dict[str, np.ndarray]:
    experts = exchange(pair.tensors, "w1.weight", "w3.weight")
    return experts or exchange(pair.tensors, "gate_proj.weight", "up_proj.weight")


def exchange(tensors: dict[str, np.ndarray], one: str, other: str) -> dict[str, np.ndarray]:
    pairs = [(name, name.replace(one, other)) for name in tensors if name.endswith(one)]
    same = [(left, right) for left, right in pairs if tensors[left].shape == tensors[right].shape]
    return {left: tensors[right] for left, right in same} | {right: tensors[left] for left, right in same}


def interleave_rotary_pairs(pair: Pair) -> dict[str, np.ndarray]:
    """Query and key with each head's features in the order of the paper, (0, 1), (2, 3), …, not of (0, H / 2), …"""
    changed = {}
    for row in pair.table:
        name, place = row.theirs[0], row.ours[0]
        if place.path.endswith(("mixer.query", "mixer.key")) and pair.family.model_type != "gpt2":
            heads, size = parameters_by_path(pair.ours)[place.path].shape[-2:]
            matrix = pair.tensors[name].reshape(heads, 2, size // 2, -1)
            changed[name] = np.ascontiguousarray(matrix.swapaxes(1, 2)).reshape(pair.tensors[name].shape)
    return changed


def gradient_difference(pair: Pair, gradients) -> float:
    """The largest difference of a tensor's gradient, relative to its norm. Spoils their model."""
    expected = parameters_by_path(with_tensors(pair.ours, pair.table, gradients_as_saved(pair.theirs)))
    found, worst = parameters_by_path(gradients), 0.0
    for row in pair.table:
        for path, layer in row.ours:
            left, right = (np.asarray(tree[path][...])[... if layer is None else layer] for tree in (found, expected))
            if path.endswith("key_bias"):  # zero in theory: softmax does not see a shift of all its scores
                assert np.abs(left - right).max() < 1e-5, path
                continue
            difference, norm = np.linalg.norm(left - right), np.linalg.norm(right)
            assert difference <= 1e-4 * norm + 1e-7, (path, layer, difference, norm)
            worst = max(worst, difference / norm if norm > 1e-4 else 0.0)
    return worst


@pytest.mark.parametrize("model_type", SPACES)
@drawn(max_examples=2)
@given(data=st.data())
def test_a_random_model_of_each_family_computes_what_that_of_transformers_does(model_type, data):
    compare(data.draw(SPACES[model_type]), prompt=1)  # nothing to read ahead: one program less to compile


@pytest.mark.slow(40)
@pytest.mark.parametrize("model_type", SPACES)
def test_many_random_models_of_each_family_compute_what_those_of_transformers_do(model_type, capsys):
    found = []

    @drawn(max_examples=8)
    @given(config=SPACES[model_type])
    def compare_one(config):
        found.append(compare(config, prompt=8))

    compare_one()
    worst = Differences(*(max(values) for values in zip(*found, strict=True)))
    assert len(found) >= 6
    with capsys.disabled():
        worst_figures = f"{worst.logits:.1e} in logits, {worst.gradient:.1e} in gradients"
        print(f"\n{model_type}: {len(found)} configs, at most {worst_figures}")


def test_mixtrals_balance_loss_is_that_of_transformers_for_one_layer_and_one_row():
    config = {"model_type": "mixtral", "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 12, "head_dim": 8}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "num_local_experts": 4}
    config |= {"output_router_logits": True, "router_aux_loss_coef": 0.5, "max_position_embeddings": LENGTH}
    pair, tokens = build(config), random_tokens(1, LENGTH)
    given = torch.tensor(tokens, dtype=torch.long)
    out = pair.theirs(given, labels=given)
    auxiliary_loss = jax.jit(lambda model, x: model.residual_stream(x).auxiliary_loss_B)(pair.ours, tokens)
    np.testing.assert_allclose(auxiliary_loss, [0.5 * out.aux_loss.item()], rtol=1e-5)
    assert loss_and_logits(pair.ours, tokens)[0][0] + auxiliary_loss[0] == pytest.approx(out.loss.item(), rel=1e-5)
