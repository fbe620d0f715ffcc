"""The peer's side of `skald bench --against hf`: GPT2LMHeadModel of our config's shape, on PyTorch.

It is given what helps it: eager on a CPU is its fastest here, fused AdamW, scaled-dot-product attention, all cores,
no dropout, no gradient where none is needed. It imports neither JAX nor anything that does.
"""

from __future__ import annotations

import time

import numpy as np

from launch.bench.serving import serve
from launch.machine.detection import cores

PROMPT, NEW, SECONDS = 32, 128, 4.0  # as launch/bench/decoding.py and training.py
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


def model(shape: dict):
    """Random weights. Raises ValueError for a shape that GPT-2 does not have."""
    from transformers import GPT2Config, GPT2LMHeadModel

    (stack,) = shape["layers"]
    (block,) = stack["pattern"]
    mixer, mlp = block["mixer"], block["feed_forward"]
    plain = mixer["heads"] == mixer["kv_heads"] and not mixer["rope"] and not mlp["gated"]
    if not plain or mlp["activation"] not in ACTIVATIONS or not shape["tied"]:
        raise ValueError("Hugging Face's GPT-2 has no such shape; --against hf takes shakespeare:nanogpt and gpt2:*")
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape["vocab_size"],
            n_positions=shape["context"],
            n_embd=shape["width"],
            n_layer=stack["repeats"],
            n_head=mixer["heads"],
            n_inner=mlp["width"],
            activation_function=ACTIVATIONS[mlp["activation"]],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def training(experiment: dict, batch: int):
    import torch

    network = model(experiment["model"]).train()
    rule = experiment["optimizer"]["rule"]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, (rule.get("beta1", 0.9), rule.get("beta2", 0.95)),
                                  fused=True)  # fmt: skip
    length = experiment["data"]["length"]
    rows = torch.from_numpy(
        np.random.default_rng(0).integers(0, experiment["model"]["vocab_size"], (64, batch, length))
    )
    clip = experiment["optimizer"]["clip"]

    def run_once() -> float:
        start, steps = time.perf_counter(), 0
        while steps < 10 or time.perf_counter() - start < SECONDS:
            tokens = rows[steps % len(rows)]
            optimizer.zero_grad(set_to_none=True)
            network(tokens, labels=tokens).loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            steps += 1
        return steps * batch * length / (time.perf_counter() - start)

    return run_once


def decoding(experiment: dict, batch: int):
    import torch

    network = model(experiment["model"]).eval()
    vocab_size = experiment["model"]["vocab_size"]
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, vocab_size, (batch, PROMPT)))
    request = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def run_once() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            written = network.generate(tokens, attention_mask=torch.ones_like(tokens), **request)
        return written[:, PROMPT:].numel() / (time.perf_counter() - start)

    return run_once


def prepare() -> str:
    """Sets PyTorch up; returns the peer's name and versions. Raises ImportError where a package is missing."""
    import torch
    import transformers

    torch.set_num_threads(cores())
    transformers.logging.set_verbosity_error()
    return f"Hugging Face transformers {transformers.__version__}, PyTorch {torch.__version__}"


if __name__ == "__main__":
    serve(prepare, {"train": training, "decode": decoding}, "torch transformers")
