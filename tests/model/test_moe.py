"""Mixture of experts against loops in NumPy float64, a dense formulation, Hugging Face, and itself on meshes.

In float64 throughout: in float32 a rounding may send a token to another expert.
"""

import functools
import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from model import config as c
from model import experts
from model.forward_pass import ForwardPass
from model.kernels import AttentionMask, megablox
from model.layers import ParameterFactory, gather_parameters
from model.mlp import ACTIVATIONS
from model.moe import MoE
from model.sharding import ShardingError, make_mesh, partition_spec, shard
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
WIDTH, ROWS, LENGTH = 16, 8, 8
MIXED = c.MoE(experts=8, active=2, width=24)
ALL_ON = c.MoE(
    experts=8, active=3, width=8, score="sigmoid", scale=1.5, shared=16,
    balance_loss=0.3, router_z_loss=0.2, balance_rate=0.01,
)  # fmt: skip
CONFIGS = {
    "softmax": MIXED,
    "softmax, not normalised": replace(MIXED, normalised=False, scale=2.5),
    "sigmoid": replace(MIXED, score="sigmoid"),
    "sigmoid, not normalised, one active": replace(MIXED, score="sigmoid", normalised=False, active=1),
    "every expert active": replace(MIXED, experts=3, active=3),
    "not gated": replace(MIXED, gated=False, activation="relu_squared"),
    "shared": replace(MIXED, shared=12),
    "all on": ALL_ON,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def built(config: c.MoE, seed: int = 0) -> MoE:
    """A layer whose every parameter is random, in float64, at rest on the current mesh."""
    module = MoE(config, WIDTH, ParameterFactory(jax.random.key(0), c.Init()))
    noise = np.random.default_rng(seed)

    def filled(parameter: nnx.Param) -> nnx.Param:
        shape = parameter[...].shape
        value, at_rest = noise.standard_normal(shape) / 2, partition_spec(parameter.axes, shape, "storage")
        return parameter.replace(jnp.asarray(value) if at_rest is None else put(value, at_rest))

    return jax.tree.map(filled, module, is_leaf=lambda x: isinstance(x, nnx.Param))


def put(value: np.ndarray, wanted) -> jax.Array:
    return jax.device_put(value, NamedSharding(jax.sharding.get_mesh(), wanted))


def given(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, LENGTH, WIDTH))


def forward_pass(segments_BT=None) -> ForwardPass:
    slots_BT = shard(jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH)), "batch", "time")
    if segments_BT is not None:
        segments_BT = shard(jnp.asarray(segments_BT), "batch", "time")
    return ForwardPass(slots_BT, AttentionMask(slots_BT, segments_BT), (), lambda *_: None, ())


@jax.jit
def applied(module: MoE, x_BTD, segments_BT=None):
    return gather_parameters(module, jnp.float64)(
        shard(jnp.asarray(x_BTD), "batch", "time", None), forward_pass(segments_BT)
    )


def weights_of(module: MoE) -> dict[str, np.ndarray]:
    return {name: np.asarray(part[...]) for name, part in vars(module).items() if isinstance(part, nnx.Param)}


# The layer as its papers write it: one token, one expert at a time.


def numpy_activation(name: str, x):
    return {"silu": lambda x: x / (1 + np.exp(-x)), "relu_squared": lambda x: np.maximum(x, 0) ** 2}[name](x)


def numpy_expert(x_D, config, gate, up, down):
    hidden = x_D @ up
    if config.gated:
        hidden = numpy_activation(config.activation, x_D @ gate) * hidden
    else:
        hidden = numpy_activation(config.activation, hidden)
    return hidden @ down


def numpy_scores(logits, config):
    if config.score == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    share = np.exp(logits - logits.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)


def numpy_choices(module: MoE, x):
    """(logits, scores, for each token the experts it chose) of [..., D]."""
    weights = weights_of(module)
    logits = x @ weights["router"]
    scores = numpy_scores(logits, module.config)
    ranked = scores + weights.get("bias", 0)
    return logits, scores, np.argsort(-ranked, axis=-1, kind="stable")[..., : module.config.active]


def numpy_moe(module: MoE, x_BTD):
    config, weights, out = module.config, weights_of(module), np.zeros_like(x_BTD)
    _, scores, chosen = numpy_choices(module, x_BTD)
    for place_ in np.ndindex(x_BTD.shape[:2]):
        picked = scores[place_][chosen[place_]]
        picked = config.scale * (picked / picked.sum() if config.normalised else picked)
        for expert, weight in zip(chosen[place_], picked, strict=True):
            gate = weights["gate"][expert] if config.gated else None
            out[place_] += weight * numpy_expert(
                x_BTD[place_], config, gate, weights["up"][expert], weights["down"][expert]
            )
        if config.shared:
            shared = weights_of(module.shared)
            out[place_] += numpy_expert(x_BTD[place_], config, shared.get("gate"), shared["up"], shared["down"])
    return out


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_token_goes_through_the_experts_it_chose(config):
    module, x = built(config), given()
    np.testing.assert_allclose(applied(module, x)[0], numpy_moe(module, x), rtol=1e-10, atol=1e-10)


def dense_moe(expert_BTK, module: MoE, x_BTD):
    """The same function with every expert computed for every token, and a weight of 0 for those not chosen."""
    config = module.config
    weights = {name: part[...] for name, part in vars(module).items() if isinstance(part, nnx.Param)}
    logits_BTE = x_BTD @ weights["router"]
    scores_BTE = jax.nn.softmax(logits_BTE) if config.score == "softmax" else jax.nn.sigmoid(logits_BTE)
    mask_BTE = jax.nn.one_hot(expert_BTK, config.experts).sum(2)
    picked_BTE = scores_BTE * mask_BTE
    if config.normalised:
        picked_BTE = picked_BTE / picked_BTE.sum(-1, keepdims=True)
    activation = ACTIVATIONS[config.activation]
    hidden_BTEF = jnp.einsum("BTD,EDF->BTEF", x_BTD, weights["up"])
    if config.gated:
        hidden_BTEF *= activation(jnp.einsum("BTD,EDF->BTEF", x_BTD, weights["gate"]))
    else:
        hidden_BTEF = activation(hidden_BTEF)
    out_BTD = jnp.einsum("BTEF,EFD,BTE->BTD", hidden_BTEF, weights["down"], config.scale * picked_BTE)
    if config.shared:
        out_BTD += module.shared(x_BTD, None)[0]
    load_BE, even = mask_BTE.mean(1) / config.active, 1 / config.experts
    mean_BE = (scores_BTE / scores_BTE.sum(-1, keepdims=True)).mean(1)
    auxiliary_loss_B = config.balance_loss * config.experts * (load_BE * mean_BE).sum(-1)
    auxiliary_loss_B += config.router_z_loss * (jax.nn.logsumexp(logits_BTE, axis=-1) ** 2).mean(-1)
    if config.balance_rate:
        auxiliary_loss_B += (load_BE - even) @ weights["bias"]
    return out_BTD, auxiliary_loss_B


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, module: MoE, x_BTD):
    """Of a random weighing of the output and of the rows' penalties, to the parameters and to x."""
    noise = np.random.default_rng(7)
    weigh_BTD, weigh_B = noise.standard_normal((ROWS, LENGTH, WIDTH)), noise.standard_normal(ROWS)

    def value(module, x_BTD):
        out_BTD, auxiliary_loss_B = function(module, x_BTD)
        return (out_BTD * shard(weigh_BTD, "batch", "time", None)).sum() + (
            auxiliary_loss_B * shard(weigh_B, "batch")
        ).sum()

    return jax.value_and_grad(value, argnums=(0, 1))(module, x_BTD)


def assert_close(one, two, limit: float = 1e-7):
    """Every tensor, relative to its own norm. Loads are counted in float32."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a), jax.tree_util.keystr(path)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_those_of_the_dense_formulation(config):
    module, x = built(config), given()
    dense = functools.partial(dense_moe, numpy_choices(module, x)[2])
    expected, found = (value_and_gradients(function, module, x)[1] for function in (dense, applied))
    assert_close(expected, found)


MESHES = {
    "expert 2": {"expert": 2, "data": 4},
    "expert 4": {"expert": 4, "replica": 2},
    "expert 8": {"expert": 8},
    "expert, data, tensor": {"expert": 2, "data": 2, "tensor": 2},
    "expert, context, tensor": {"expert": 2, "context": 2, "tensor": 2},
    "replica, context, data": {"replica": 2, "context": 2, "data": 2},
    "replica, data, expert": {"replica": 2, "data": 2, "expert": 2},
    "context 4, expert 2": {"context": 4, "expert": 2},
    "tensor 8": {"tensor": 8},
}


@pytest.fixture(scope="module")
def alone():
    with jax.enable_x64(True):
        return value_and_gradients(applied, built(ALL_ON), given())


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_every_mesh_computes_the_same(sizes, alone):
    """Gradients with respect to parameters at rest: cast, moved, and summed over everything that used them."""
    x = given()
    with jax.set_mesh(make_mesh(sizes)):
        module = built(ALL_ON)
        found = value_and_gradients(
            applied, module, put(x, partition_spec(("batch", "time", None), x.shape, "compute"))
        )
        for parameter, gradient in zip(jax.tree.leaves(module), jax.tree.leaves(found[1][0]), strict=True):
            assert gradient.sharding == parameter.sharding
    assert_close(alone, found)


class Megablox:
    """The kernels that TPUs run, as JAX computes the same: interpreted they run neither in float64 nor on a mesh."""

    @staticmethod
    def gmm(rows_RD, matrices_EDF, sizes_E, dtype, tiling, transpose_rhs=False, interpret=False):
        return jax.lax.ragged_dot(rows_RD, matrices_EDF.swapaxes(1, 2) if transpose_rhs else matrices_EDF, sizes_E)

    @staticmethod
    def tgmm(rows_DR, gradient_RF, sizes_E, dtype, tiling, interpret=False):
        contracted = jax.lax.RaggedDotDimensionNumbers((((1,), (0,)), ((), ())), [1], [])
        return jax.lax.ragged_dot_general(rows_DR, gradient_RF, sizes_E, contracted)


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize("name", ["expert, data, tensor", "replica, context, data"])
def test_gradients_written_out_for_tpus_are_summed_over_every_mesh(name, alone, monkeypatch):
    monkeypatch.setattr(megablox, "megablox_library", lambda: Megablox)
    monkeypatch.setattr(experts, "grouped_matmul", megablox.grouped_matmul)

    def applied_there(module, x_BTD):  # a function of its own: what JAX keeps of `applied` has another product
        return applied.__wrapped__(module, x_BTD)

    x = given()
    with jax.set_mesh(make_mesh(MESHES[name])):
        x = put(x, partition_spec(("batch", "time", None), x.shape, "compute"))
        assert_close(alone, value_and_gradients(applied_there, built(ALL_ON), x))


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
def test_experts_that_do_not_divide_are_refused():
    with jax.set_mesh(make_mesh({"expert": 4, "data": 2})), pytest.raises(ShardingError, match="experts of size 6"):
        built(replace(MIXED, experts=6))


def test_all_tokens_may_choose_one_expert():
    module = built(replace(MIXED, active=1))
    x = np.abs(given())
    router_DE = np.zeros((WIDTH, MIXED.experts))
    router_DE[:, 5] = 1
    module.router[...] = jnp.asarray(router_DE)
    assert (numpy_choices(module, x)[2] == 5).all()
    np.testing.assert_allclose(applied(module, x)[0], numpy_moe(module, x), rtol=1e-10, atol=1e-10)


def test_of_equal_scores_the_first_experts_are_chosen():
    module, x = built(MIXED), given()
    module.router[...] = jnp.zeros((WIDTH, MIXED.experts))
    weights = weights_of(module)
    both = [numpy_expert(x, MIXED, *(weights[name][e] for name in ("gate", "up", "down"))) for e in (0, 1)]
    np.testing.assert_allclose(applied(module, x)[0], (both[0] + both[1]) / 2, rtol=1e-10, atol=1e-10)


def test_the_bias_chooses_and_weighs_nothing():
    config = replace(MIXED, score="sigmoid", balance_rate=0.1)
    module, x = built(config), given()
    bias = np.zeros(8)
    bias[[2, 6]] = 10
    module.bias[...] = jnp.asarray(bias)
    _, scores, chosen = numpy_choices(module, x)
    assert (np.sort(chosen, -1) == [2, 6]).all() and (scores < 1).all()
    np.testing.assert_allclose(applied(module, x)[0], numpy_moe(module, x), rtol=1e-10, atol=1e-10)


# Penalties


def numpy_penalty(module: MoE, x_BTD, real_BT):
    """DeepSeek-V3, eq. 17 to 20 for each row; Zoph et al. 2022, eq. 5."""
    config, penalties = module.config, []
    for x, real in zip(x_BTD, real_BT, strict=True):
        logits, scores, chosen = numpy_choices(module, x[real])
        share = scores / scores.sum(-1, keepdims=True)
        balance = 0.0
        for expert in range(config.experts):
            taken = config.experts / (config.active * real.sum()) * (chosen == expert).sum()
            balance += taken * share[:, expert].mean()
        z = np.log(np.exp(logits).sum(-1)) ** 2
        penalties.append(config.balance_loss * balance + config.router_z_loss * z.mean())
    return np.array(penalties)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_penalties_are_means_over_each_rows_real_tokens(score):
    module = built(replace(ALL_ON, score=score))
    x, segments = given(), np.ones((ROWS, LENGTH), np.int32)
    segments[0, 5:], segments[1, 1:], segments[2, 3:5] = 0, 0, 0
    segments[3, 4:] = 2
    found = applied(module, x, segments)[1]
    np.testing.assert_allclose(found, numpy_penalty(module, x, segments > 0), rtol=1e-10)
    padded = np.where(segments[..., None] > 0, x, 100.0)
    np.testing.assert_allclose(applied(module, padded, segments)[1], found, rtol=1e-12)
    assert (applied(module, x, 0 * segments)[1] == 0).all()  # rows of padding alone: a pipeline's bubbles


def test_an_even_load_costs_the_coefficient_of_the_balance_loss():
    """As in Fedus et al. 2021, 2.2, whatever `active` is."""
    module = built(replace(MIXED, balance_loss=0.7, score="sigmoid"))
    module.router[...] = jnp.zeros((WIDTH, MIXED.experts))
    np.testing.assert_allclose(applied(module, given())[1], 0.7)


def test_the_biass_gradient_is_each_experts_excess_of_load():
    module, x, segments = built(ALL_ON), given(), np.ones((ROWS, LENGTH), np.int32)
    segments[0, 2:] = 0
    tokens_B = (segments > 0).sum(1)
    chosen = numpy_choices(module, x)[2][segments > 0]
    load = np.array([(chosen == expert).sum() for expert in range(ALL_ON.experts)])
    found = jax.grad(lambda module: (applied(module, x, segments)[1] * tokens_B).sum())(module)
    np.testing.assert_allclose(found.bias[...] * ALL_ON.active, load - load.mean(), atol=1e-10)


# Hugging Face


def huggingface(name: str, module: MoE, x_BTD) -> np.ndarray:
    """What transformers' block of that family makes of x with our weights. Its softmax is in float32."""
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install torch==2.13.0 transformers")
    transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install transformers")
    config, weights = module.config, weights_of(module)
    sizes = {"hidden_size": WIDTH, "num_experts_per_tok": config.active}
    if name == "Mixtral":
        sizes |= {"intermediate_size": config.width, "num_local_experts": config.experts}
    else:
        sizes |= {"moe_intermediate_size": config.width, "num_experts": config.experts}
        sizes |= {"norm_topk_prob": config.normalised}
    made = getattr(transformers, f"{name}Config")(**sizes)
    made._experts_implementation = "eager"  # their plain loop
    folder = {"Mixtral": "mixtral", "Qwen3Moe": "qwen3_moe"}[name]
    family = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    block = getattr(family, f"{name}SparseMoeBlock")(made).double().eval()
    joined = np.concatenate([weights["gate"], weights["up"]], axis=-1).swapaxes(1, 2)
    given = {"gate.weight": weights["router"].T, "experts.gate_up_proj": joined}
    given |= {"experts.down_proj": weights["down"].swapaxes(1, 2)}
    block.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in given.items()})
    with torch.no_grad():
        return block(torch.from_numpy(x_BTD)).numpy()


@pytest.mark.parametrize(
    "name, config",
    [("Mixtral", MIXED), ("Qwen3Moe", MIXED), ("Qwen3Moe", replace(MIXED, active=3, normalised=False))],
    ids=["Mixtral", "Qwen3", "Qwen3, not normalised"],
)
def test_it_is_transformers_block(name, config):
    module, x = built(config), given()
    np.testing.assert_allclose(applied(module, x)[0], huggingface(name, module, x), rtol=1e-5, atol=1e-5)


# Inside a Transformer


BLOCK = c.Block(c.Attention(4, 2, 4, rope=c.Rope()), replace(ALL_ON, score="softmax"))


def products(remat: str) -> int:
    """Grouped products in the traced program of a layer's loss and gradients."""
    config = c.Model(32, WIDTH, LENGTH, (c.Stack((BLOCK,), 2),))
    tokens_BT = np.zeros((ROWS, LENGTH), np.int32)

    def loss(model):
        stream = model.residual_stream(tokens_BT)
        return stream.x_BTD.sum() + stream.auxiliary_loss_B.sum()

    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0), c.Execution(remat=remat)))
    return str(jax.make_jaxpr(jax.grad(loss))(model)).count("while[")  # a loop over windows each


def test_recomputation_keeps_the_products_it_names():
    """Three forward, twice as many backward; `full` computes gate and up again, `minimal` nothing."""
    assert [products(remat) for remat in ("none", "minimal", "full")] == [9, 9, 11]
