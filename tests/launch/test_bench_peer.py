"""Hugging Face's side of `skald bench`: the same shapes as ours, the number format that we compute in."""

import jax
import pytest

from configs import gpt2, llama, lstm, mixtral, shakespeare
from launch import experiments
from launch.bench import limits, peer
from model.config import Execution
from model.transformer import abstract_model
from train import fields

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from launch.bench import huggingface  # noqa: E402

SAME_SHAPE = {"gpt2:small": gpt2.small, "llama:1b": llama.one_b, "llama:tiny": llama.tiny}


@pytest.mark.parametrize("config", SAME_SHAPE.values(), ids=SAME_SHAPE)
def test_the_peer_has_as_many_parameters_as_we_have(config, monkeypatch):
    monkeypatch.setattr(huggingface, "device", lambda: "meta")  # no memory is taken
    experiment = config()
    with torch.device("meta"):
        network = huggingface.model(fields.to_json(experiment)["model"])
    ours = sum(x.size for x in jax.tree.leaves(abstract_model(experiment.model)))
    assert sum(x.numel() for x in network.parameters()) == ours


@pytest.mark.parametrize(
    "config", [mixtral.tiny, lstm.default, shakespeare.default], ids=lambda config: config.__module__
)
def test_a_shape_that_hugging_face_does_not_have_is_refused(config):
    with pytest.raises(ValueError, match="takes shakespeare:nanogpt, gpt2"):
        huggingface.model(fields.to_json(config())["model"])


@pytest.mark.parametrize(
    "setting",
    ["token_shift=0.5", "placement=sandwich", "mixer.window=8", "mixer.query_key_norm={}", "norm.kind=layer"],
)
def test_a_llama_with_anything_else_in_it_is_none(setting):
    experiment = experiments.resolve("llama:tiny", [f"model.layers.0.pattern.0.{setting}"], None)
    with pytest.raises(ValueError, match="takes shakespeare:nanogpt, gpt2"):
        huggingface.model(fields.to_json(experiment)["model"])


@pytest.mark.parametrize(
    "has_them, settings, count", [(True, [], 4), (False, [], 2), (True, ["execution.precision=default"], 2)]
)
def test_peers_train_in_bfloat16_too_where_we_round_products(has_them, settings, count, monkeypatch):
    started = []

    class Recorded:
        name = "a peer"

        def __init__(self, command, *given):
            started.append(command)

    monkeypatch.setattr(peer, "Peer", Recorded)
    monkeypatch.setattr(peer, "multiplies_bfloat16", lambda: has_them)
    experiment = fields.to_json(experiments.resolve("shakespeare:nanogpt", settings, None))
    peer.start_peers("torch", "train", experiment, {})
    assert len(started) == count and [peer.MIXED in command for command in started].count(True) == count - 2


def test_a_peer_in_bfloat16_computes_in_it():
    """Its loss is the float32 one to bfloat16's three digits, and not to more."""
    experiment = fields.to_json(shakespeare.nanogpt())
    network, tokens = huggingface.model(experiment["model"]), torch.randint(65, (4, 64))
    exact = huggingface.loss_function(network, experiment)(tokens).item()
    experiment["execution"]["dtype"] = "bfloat16"
    rounded = huggingface.loss_function(network, experiment)(tokens).item()
    assert rounded == pytest.approx(exact, rel=0.01) and rounded != pytest.approx(exact, rel=1e-7)
    assert huggingface.mixed_training(fields.to_json(llama.tiny()), batch=1, seconds=0.1)()["tokens_per_second"] > 0


@pytest.mark.parametrize("stated, expected", [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_peer_trains_and_writes_in_our_number_format(stated, expected):
    experiment = fields.to_json(llama.tiny())
    experiment["execution"]["dtype"] = stated
    assert huggingface.dtype(experiment) == expected
    assert huggingface.training(experiment, 1, seconds=0.1)()["tokens_per_second"] > 0
    assert huggingface.decoding(experiment, 2, prompt=5, new=3)()["tokens_per_second"] > 0


def test_the_number_format_is_the_devices_where_the_config_leaves_it_open(monkeypatch):
    assert limits.compute_dtype(Execution(dtype="auto")) == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert limits.compute_dtype(Execution(dtype="auto")) == "bfloat16"
    assert limits.compute_dtype(Execution(dtype="float32")) == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_limits_are_rates_that_a_machine_can_have(dtype, monkeypatch):
    monkeypatch.setitem(limits.MATMUL_SIZE, "cpu", 256)
    monkeypatch.setitem(limits.READ_BYTES, "cpu", 1 << 24)
    assert 1e7 < limits.matmul_rate(dtype)() < 1e14  # FLOP/s
    assert 1e7 < limits.reading_rate()() < 1e13  # bytes/s
