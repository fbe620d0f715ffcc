"""The LSTM against torch.nn.LSTM, and what training and decoding ask of it: documents, padding, number formats."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model import cost
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.sharding import ShardingError, make_mesh
from model.transformer import Transformer

torch = pytest.importorskip("torch", reason="the truth here is torch.nn.LSTM: pip install torch==2.13.0")

pytestmark = pytest.mark.timeout(120)
VOCAB, WIDTH, LENGTH, LAYERS = 19, 16, 24, 2
BLOCK = c.Block(c.LSTM(), None, placement="plain")
STACK = c.Stack((BLOCK,), LAYERS)
CONFIG = c.Model(VOCAB, WIDTH, LENGTH, (STACK,), final_norm=None, tied=False, init=c.Init(embedding=1.0))


def built(**execution) -> Transformer:
    """A model with random biases."""
    dtype = np.float64 if execution.get("dtype") == "float64" else np.float32
    model = jax.jit(lambda: Transformer(CONFIG, jax.random.key(0), c.Execution(**execution)))()
    leaves, structure = jax.tree.flatten(model)
    noise = np.random.default_rng(1)
    return structure.unflatten([(leaf + 0.1 * noise.standard_normal(leaf.shape)).astype(dtype) for leaf in leaves])


def tokens(rows: int = 3, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (rows, length)).astype(np.int32)


@jax.jit
def states_and_gradients(model, tokens_BT, weight_BTD, segments_BT=None, positions_BT=None):
    """The hidden states of the last layer, and the gradients of their sum, so weighted."""

    def weighted_sum(model):
        hidden_BTD = model.hidden(tokens_BT, segments_BT, positions_BT)
        return jnp.sum(hidden_BTD * weight_BTD), hidden_BTD

    (_, hidden_BTD), gradients = jax.value_and_grad(weighted_sum, has_aux=True)(model)
    return hidden_BTD, gradients


def weights(shape) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape, np.float32)


def assert_close(found, expected, limit: float):
    """Every array, relative to its norm."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape
        assert np.linalg.norm(np.asarray(x - y, np.float64)) <= limit * np.linalg.norm(np.asarray(y, np.float64))


# --- against PyTorch --------------------------------------------------------------------------------------------------


def torch_arrays(mixer, layer: int) -> dict[str, np.ndarray]:
    """A layer's parameters, or gradients, in PyTorch's shapes: [4 D, D] and [4 D]."""
    matrices = {"weight_ih": mixer.input, "weight_hh": mixer.recurrent}
    found = {name: np.asarray(x[...][layer]).reshape(WIDTH, 4 * WIDTH).T.copy() for name, x in matrices.items()}
    return found | {"bias_ih": np.asarray(mixer.bias[...][layer]).reshape(-1)}


def torch_lstm(model: Transformer) -> torch.nn.LSTM:
    theirs = torch.nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True)
    for layer in range(LAYERS):
        arrays = torch_arrays(model.stacks[0].pattern[0].mixer, layer)
        arrays["bias_hh"] = np.zeros(4 * WIDTH)
        for name, array in arrays.items():
            getattr(theirs, f"{name}_l{layer}").data = torch.tensor(array)
    return theirs


@pytest.mark.parametrize("dtype, limit", [("float32", 2e-6), ("float64", 1e-13)])
def test_outputs_last_states_and_gradients_are_those_of_pytorch(dtype, limit):
    with jax.enable_x64(dtype == "float64"):
        model, given_BT = built(dtype=dtype), tokens()
        weight_BTD = weights((3, LENGTH, WIDTH)).astype(dtype)
        found_BTD, gradients = states_and_gradients(model, given_BT, weight_BTD)
        _, cache = jax.jit(lambda model, given: model(given, model.init_cache(3, LENGTH)))(model, given_BT)
        theirs = torch_lstm(model).to(getattr(torch, dtype))
        table = torch.tensor(np.asarray(model.embedding.table[...]), requires_grad=True)
        expected_BTD, (hidden_LBD, cell_LBD) = theirs(table[torch.tensor(given_BT).long()])
        (expected_BTD * torch.tensor(weight_BTD)).sum().backward()
        assert_close(found_BTD, expected_BTD.detach().numpy(), limit)
        assert_close(gradients.embedding.table[...], table.grad.numpy(), limit)
        for layer in range(LAYERS):
            assert_close(cache.layers[layer].mixer.hidden, hidden_LBD[layer].detach().numpy(), limit)
            assert_close(cache.layers[layer].mixer.cell, cell_LBD[layer].detach().numpy(), limit)
            for name, array in torch_arrays(gradients.stacks[0].pattern[0].mixer, layer).items():
                assert_close(array, getattr(theirs, f"{name}_l{layer}").grad.numpy(), limit)


# --- documents and padding --------------------------------------------------------------------------------------------


def batch(rows: list[list[slice]]):
    """Tokens, weights, segments and positions of rows of documents, which are slices of one text; the rest is padding.

    As many rows as tokens, whatever is in them: one shape, so that one program serves all of a property's examples."""
    text_T, weight_TD = tokens(1)[0], weights((LENGTH, WIDTH))
    tokens_BT, segments_BT, positions_BT = np.zeros((3, LENGTH, LENGTH), np.int32)
    weight_BTD = np.zeros((LENGTH, LENGTH, WIDTH), np.float32)
    for row, documents in enumerate(rows):
        column = 0
        for number, document in enumerate(documents, 1):
            place = row, slice(column, column := column + document.stop - document.start)
            tokens_BT[place], weight_BTD[place] = text_T[document], weight_TD[document]
            segments_BT[place], positions_BT[place] = number, np.arange(document.stop - document.start)
    return tokens_BT, weight_BTD, segments_BT, positions_BT


@functools.cache
def float32_model() -> Transformer:
    return built()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, LENGTH)))
def test_a_document_of_a_packed_row_is_read_as_if_alone(ends):
    """The same bits of every state, and of the gradients the same sum."""
    borders = sorted(ends | {0, LENGTH})
    documents = [slice(start, stop) for start, stop in itertools.pairwise(borders)]
    packed_BTD, packed = states_and_gradients(float32_model(), *batch([documents]))
    alone_BTD, alone = states_and_gradients(float32_model(), *batch([[document] for document in documents]))
    for row, document in enumerate(documents):
        np.testing.assert_array_equal(packed_BTD[0, document], alone_BTD[row, : document.stop - document.start])
    assert_close(packed, alone, 1e-5)


read = jax.jit(lambda model, tokens_BT, cache, count_B: model(tokens_BT, cache, count_B))


def test_padding_and_rows_without_a_token_leave_the_state_as_it_is():
    model, given_BT = float32_model(), tokens()
    empty = model.init_cache(3, LENGTH)
    _, cache = read(model, given_BT[:, :8], empty, np.array([8, 5, 0], np.int32))
    _, other = read(model, np.where(np.arange(8) < 5, given_BT[:, :8], 3), empty, np.array([5, 5, 0], np.int32))
    _, again = read(model, given_BT[:, 8:], cache, np.zeros(3, np.int32))
    for layer in range(LAYERS):
        for kept, before, start, padded in zip(
            *(x.layers[layer].mixer for x in (again, cache, empty, other)), strict=True
        ):
            np.testing.assert_array_equal(kept, before)
            np.testing.assert_array_equal(before[1], padded[1])
            np.testing.assert_array_equal(before[2], start[2])
            assert np.abs(before[:2]).min() > 0


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("panels", [False, True])
def test_greedy_text_is_that_of_reading_everything_anew_for_each_token(panels):
    model, prompts = built(panels=panels), [[3], [5, 1, 2, 8, 8], [7, 7]]
    generator = Generator(model, vocab_size=VOCAB, context=LENGTH)
    rows = generator.generate(prompts, chain=parse_chain("greedy"), max_new_tokens=9)
    logits = jax.jit(lambda model, tokens_BT: model.logits(model.hidden(tokens_BT)))
    for prompt, found in zip(prompts, rows, strict=True):
        row = list(prompt)
        while len(row) < len(prompt) + 9:
            padded_BT = np.array([row + [0] * (LENGTH - len(row))], np.int32)
            row.append(int(logits(float32_model(), padded_BT)[0, len(row) - 1].argmax()))
        assert found.tokens == row[len(prompt) :]


# --- how it is computed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remat, scans", [("minimal", 2), ("save_qkv", 2), ("full", 3)])
def test_recomputation_changes_no_gradient_and_only_full_reads_time_again(remat, scans):
    """Forward, backward, and with `full` forward again, in every layer."""
    model, weight_BTD = built(remat=remat, layers="unroll"), weights((3, LENGTH, WIDTH))
    _, expected = states_and_gradients(float32_model(), tokens(), weight_BTD)
    _, found = states_and_gradients(model, tokens(), weight_BTD)
    assert_close(found, expected, 1e-5)
    lowered = states_and_gradients.lower(model, tokens(), weight_BTD).as_text()
    assert lowered.count("stablehlo.while") == LAYERS * scans


@pytest.mark.parametrize("execution, limit", [({"dtype": "bfloat16"}, 0.02), ({"matmul": "int8"}, 0.05)])
def test_products_in_few_bits_stay_near(execution, limit):
    rows, length = 8, 64
    given_BT, weight_BTD = tokens(rows, length), np.ones((rows, length, WIDTH), np.float32)
    exact_BTD, exact = states_and_gradients(built(), given_BT, weight_BTD)
    rounded_BTD, rounded = states_and_gradients(built(**execution), given_BT, weight_BTD)
    assert_close(rounded_BTD, exact_BTD, limit)
    assert np.abs(rounded_BTD - exact_BTD).max() > 1e-4
    assert_close(rounded, exact, 3 * limit)


def test_every_weight_is_counted_as_multiplied_with_each_token():
    parameters = jax.tree.leaves(float32_model(), is_leaf=lambda x: isinstance(x, nnx.Param))
    count = sum(parameter[...].size for parameter in parameters if parameter.input_axes)
    assert cost.matrix_parameters(CONFIG) == count
    assert cost.forward_flops(CONFIG, LENGTH) == 2 * (count - VOCAB * WIDTH)  # without the embedding


def test_an_lstm_refuses_a_mesh_that_splits_time():
    with jax.set_mesh(make_mesh({"context": 2, "data": 0})), pytest.raises(ShardingError) as error:
        jax.eval_shape(lambda model: model.hidden(jnp.zeros((8, LENGTH), int)), float32_model())
    assert str(error.value) == "mesh: context=2 splits time, which an LSTM reads in order; set mesh.context=1"


@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_at_first_all_biases_are_zero_but_the_forget_gates(forget_bias):
    stack = replace(STACK, pattern=(replace(BLOCK, mixer=c.LSTM(forget_bias)),))
    model = Transformer(replace(CONFIG, layers=(stack,)), jax.random.key(0))
    mixer = model.stacks[0].pattern[0].mixer
    expected_GD = np.array([0, forget_bias, 0, 0])[:, None] * np.ones(WIDTH)
    np.testing.assert_array_equal(mixer.bias[...], [expected_GD] * LAYERS)
    for matrix in (mixer.input, mixer.recurrent):
        assert abs(float(matrix[...].std()) * WIDTH**0.5 - 1) < 0.1
