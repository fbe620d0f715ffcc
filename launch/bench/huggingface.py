"""The peer's side of `skald bench --against hf`: Hugging Face's GPT-2 or Llama of our config's shape, on PyTorch.

It is given what helps it: fused AdamW, scaled-dot-product attention, no dropout, no gradient where none is needed. On
a CPU: eager, its fastest here, and all cores; with the argument bfloat16 it trains with such products. On a GPU:
bfloat16, compiled, and a static cache for decoding. It imports neither JAX nor anything that does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import time

import numpy as np

from launch.bench.arrivals import Arrival, decoding_figures
from launch.bench.gpt_shape import GPTShape, gpt_shape, is_gpt
from launch.bench.peer import MIXED
from launch.bench.serving import serve
from launch.machine.detection import cores
from model import config as c

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


def model(shape: dict):
    """Random weights, in float32, on the device. Raises ValueError for a shape that neither GPT-2 nor Llama has."""
    (stack, *others), block = shape["layers"], shape["layers"][0]["pattern"][0]
    if not others and is_gpt(shape, block):
        return gpt2(gpt_shape(shape)).to(device())
    if not others and is_llama(shape, stack["pattern"]):
        return llama(shape, stack["repeats"], block["mixer"], block["feed_forward"]).to(device())
    raise ValueError("Hugging Face has no such shape; --against hf takes shakespeare:nanogpt, gpt2:* and llama:*")


def is_llama(shape: dict, pattern: list[dict]) -> bool:
    """Whether all layers are like the first of this pattern, and that is one of a Llama's."""
    block, mixer, mlp = pattern[0], pattern[0]["mixer"], pattern[0]["feed_forward"] or {"is": None}
    if len(pattern) > 1 or mixer["is"] != "Attention" or mlp["is"] != "MLP":
        return False
    rope, norms = mixer["rope"], (block["norm"], shape["final_norm"])
    return (
        rope
        and not rope["scaling"]
        and mlp["gated"]
        and mlp["activation"] == "silu"
        and all(norm and norm["kind"] == "rms" and norm["scale"] for norm in norms)
        and has_defaults(mixer, c.Attention, "rope")
        and has_defaults(mlp, c.MLP, "gated", "activation")
        and has_defaults(block, c.Block)
        and has_defaults(shape, c.Model, "tied")
    )


def has_defaults(part: dict, kind: type, *others: str) -> bool:
    """Whether the fields of a part that have a default are at it, but for these others."""
    fields = [field for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING]
    return all(part[field.name] == field.default for field in fields if field.name not in others)


def gpt2(gpt: GPTShape):
    from transformers import GPT2Config, GPT2LMHeadModel  # here, so that `prepare` can say that it is not installed

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=gpt.vocab_size,
            n_positions=gpt.context,
            n_embd=gpt.width,
            n_layer=gpt.layers,
            n_head=gpt.heads,
            n_inner=gpt.hidden,
            activation_function=ACTIVATIONS[gpt.activation],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def llama(shape: dict, layers: int, mixer: dict, mlp: dict):
    from transformers import LlamaConfig, LlamaForCausalLM  # as above

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocab_size"],
            max_position_embeddings=shape["context"],
            hidden_size=shape["width"],
            num_hidden_layers=layers,
            num_attention_heads=mixer["heads"],
            num_key_value_heads=mixer["kv_heads"],
            head_dim=mixer["head_width"],
            intermediate_size=mlp["width"],
            tie_word_embeddings=shape["tied"],
            rope_parameters={"rope_type": "default", "rope_theta": mixer["rope"]["base"]},
        )
    )


def device() -> str:
    import torch  # as above

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype(experiment: dict):
    """The number format of products: ours, as launch/machine/auto.py chooses it."""
    import torch  # as above

    stated = experiment["execution"]["dtype"]
    return getattr(torch, {"cpu": "float32", "cuda": "bfloat16"}[device()] if stated == "auto" else stated)


def wait_for_device() -> None:
    import torch  # as above

    if device() == "cuda":
        torch.cuda.synchronize()


def loss_function(network, experiment: dict):
    """A function of tokens to the mean loss, whose products are in `dtype`; compiled on a GPU."""
    import torch  # as above

    fast = torch.compile(network) if device() == "cuda" else network
    mixed = dtype(experiment) != torch.float32
    context = torch.autocast(device(), dtype(experiment)) if mixed else contextlib.nullcontext()

    def loss(tokens):
        with context:
            return fast(tokens, labels=tokens, use_cache=False).loss

    return loss


def training(experiment: dict, batch: int, seconds: float):
    """A function that trains on random rows for about `seconds` and returns tokens a second."""
    import torch  # as above

    network = model(experiment["model"]).train()
    rule = experiment["optimizer"]["rule"]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, (rule.get("beta1", 0.9), rule.get("beta2", 0.95)),
                                  fused=True)  # fmt: skip
    length = experiment["data"]["length"]
    rows = torch.from_numpy(
        np.random.default_rng(0).integers(0, experiment["model"]["vocab_size"], (64, batch, length))
    ).to(device())
    clip, loss = experiment["optimizer"]["clip"], loss_function(network, experiment)

    def run_once() -> dict[str, float]:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            tokens = rows[steps % len(rows)]
            optimizer.zero_grad(set_to_none=True)
            loss(tokens).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            steps += 1
            if steps % 10 == 0:
                wait_for_device()  # steps are queued faster than they are computed
        wait_for_device()
        return {"tokens_per_second": steps * batch * length / (time.perf_counter() - start)}

    return run_once


class Stopwatch:
    """A streamer of `generate`, which gives it the prompt first and then the tokens [batch] of every step."""

    def __init__(self):
        self.start, self.arrivals = time.perf_counter(), []

    def put(self, tokens) -> None:
        self.arrivals.append(Arrival(time.perf_counter() - self.start, tokens.numel()))

    def end(self) -> None:
        """Called behind the last token."""


def generation_cache() -> dict:
    """What `generate` is asked for on a GPU: a static cache, with which it compiles the model by itself, as a graph of
    CUDA, which dispatches fastest."""
    return {"cache_implementation": "static"} if device() == "cuda" else {}


def decoding(experiment: dict, batch: int, prompt: int, new: int):
    """A function that writes as launch/bench/decoding.py does and returns decoding_figures. A token has arrived when
    `generate` gives it to its streamer, on the host, which it does at every step: so nothing is run twice to time the
    prompt."""
    import torch  # as above

    shape = experiment["model"]
    network = model({**shape, "context": max(shape["context"], prompt + new)}).eval().to(dtype(experiment))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, shape["vocab_size"], (batch, prompt))).to(device())
    request = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    request |= generation_cache()

    def run_once() -> dict[str, float]:
        stopwatch = Stopwatch()
        with torch.inference_mode():
            network.generate(tokens, attention_mask=torch.ones_like(tokens), streamer=stopwatch, **request)
        return decoding_figures(stopwatch.arrivals[1:], batch)

    return run_once


def prepare(mixed: bool) -> str:
    """Sets PyTorch up; returns the peer's name and versions. Raises ImportError where a package is missing."""
    import torch
    import transformers

    torch.set_num_threads(cores())
    torch.set_float32_matmul_precision("high")  # what is left in float32 on a GPU: on its tensor cores
    transformers.logging.set_verbosity_error()
    versions = f"Hugging Face transformers {transformers.__version__}, PyTorch {torch.__version__}"
    return f"{versions}, products in bfloat16" if mixed else versions


def compile_early(run_once) -> None:
    """On a GPU, where the first run compiles for a minute: while our own side does. On a CPU it would only slow us."""
    if device() == "cuda":
        run_once()


def mixed_training(experiment: dict, **case):
    """`training` with products of bfloat16."""
    return training({**experiment, "execution": {**experiment["execution"], "dtype": "bfloat16"}}, **case)


if __name__ == "__main__":
    mixed = MIXED in sys.argv[1:-3]
    benches = {"train": mixed_training if mixed else training, "decode": decoding}
    serve(functools.partial(prepare, mixed), benches, "torch transformers", compile_early)
