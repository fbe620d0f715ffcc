"""The training step and the decoding step are lowered for CUDA on a machine without one: shapes, layouts, dtypes and
masks pass cuDNN's own checks in jax. What the kernels compute, the start-up proof tests where they run."""

import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from configs import gpt2, llama
from model import kernels
from model.config import Execution
from model.decode import generate
from model.decode.chain import parse_chain
from model.transformer import Transformer
from train.program import Program

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
MASKED_FORWARD, MASKED_BACKWARD = "__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"


@pytest.fixture
def cuda(monkeypatch):
    """jax and the choice of kernels take this machine for one with cuDNN 9.12, which lowering alone never calls."""
    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", SimpleNamespace(cudnn_get_version=lambda: 91200))
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")


def two_layers(model):
    """The shape with two layers, without dropout, as launch/bench/gpu.sh trains it."""
    (stack,) = model.layers
    pattern = tuple(replace(block, dropout=0.0, mixer=replace(block.mixer, dropout=0.0)) for block in stack.pattern)
    return replace(model, dropout=0.0, layers=(replace(stack, pattern=pattern, repeats=2),))


def custom_calls(lowered) -> Counter:
    return Counter(re.findall(r"custom_call @(__cudnn\S+?)\(", lowered.as_text()))


@pytest.mark.parametrize("window", [None, 256])
@pytest.mark.parametrize("remat, forward", [("none", 2), ("minimal", 2), ("full", 3)])
@pytest.mark.parametrize("config", [gpt2.small, llama.one_b], ids=lambda config: config.__module__)
def test_the_training_step_calls_cudnn_both_ways(config, remat, forward, window, cuda):
    base = config()
    model = two_layers(base.model)
    (stack,) = model.layers
    block = replace(stack.pattern[0], mixer=replace(stack.pattern[0].mixer, window=window))
    model = replace(model, layers=(replace(stack, pattern=(block,)),))
    execution = replace(base.execution, dtype="bfloat16", kernel="auto", layers="scan", remat=remat)
    experiment = replace(
        base, model=model, execution=execution, data=replace(base.data, length=1024), batch_size=4, microbatches=1
    )
    program = Program(experiment, jax.devices()[:1])
    with jax.set_mesh(program.mesh):
        traced = program.train_steps.trace(program.abstract_state, program.abstract_rows())
        calls = custom_calls(traced.lower(lowering_platforms=("cuda",)))
    assert calls == {FORWARD: forward, MASKED_FORWARD: forward, BACKWARD: 1, MASKED_BACKWARD: 1}


def test_heads_split_over_devices_are_lowered_too(cuda):
    if len(jax.devices()) != 8:
        pytest.skip("needs eight devices: unset XLA_FLAGS for tests/conftest.py")
    base = llama.one_b()
    execution = replace(base.execution, dtype="bfloat16", kernel="cudnn", layers="scan", remat="minimal")
    experiment = replace(
        base, model=two_layers(base.model), execution=execution, data=replace(base.data, length=1024), batch_size=4,
        mesh=replace(base.mesh, data=2, tensor=4),
    )  # fmt: skip
    program = Program(experiment, jax.devices())
    with jax.set_mesh(program.mesh):
        traced = program.train_steps.trace(program.abstract_state, program.abstract_rows())
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "tensor<2x1024x8x64xbf16>" in text and BACKWARD in text


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_programs_of_decoding_are_lowered_in_bfloat16(family, monkeypatch):
    base = {"gpt2": gpt2.small, "llama": llama.tiny}[family]().model
    model, lowered = replace(two_layers(base), vocab_size=96), []

    def lowering(jitted):
        def made(structure):
            function = jitted(structure)

            def run(*arguments, **static):
                lowered.append(function.trace(*arguments, **static).lower(lowering_platforms=("cuda",)).as_text())
                return function(*arguments, **static)

            return run

        return made

    for name in ("jitted_prefill", "jitted_decode"):
        monkeypatch.setattr(generate, name, lowering(getattr(generate, name)))
    weights = jax.jit(lambda: Transformer(model, jax.random.key(0), Execution(dtype="bfloat16", kernel="auto")))()
    generator = generate.Generator(weights, vocab_size=96, context=64)
    generator.generate([[1, 2, 3]], chain=parse_chain("greedy"), max_new_tokens=1)  # one dispatch
    assert len(lowered) == 2 and all("xbf16>" in text for text in lowered)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in generator.models[""].leaves if leaf.size > 8192)
