"""The peer's side of `skald bench --against hf`: GPT2LMHeadModel of our config's shape, on PyTorch.

It is given what helps it: eager on a CPU is its fastest here, fused AdamW, scaled-dot-product attention, all cores,
no dropout, no gradient where none is needed. It imports neither JAX nor anything that does.
"""

from __future__ import annotations

import time

import numpy as np

from launch.bench.arrivals import Arrival, decoding_figures
from launch.bench.gpt_shape import gpt_shape
from launch.bench.serving import serve
from launch.machine.detection import cores

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


def model(shape: dict):
    """Random weights. Raises ValueError for a shape that GPT-2 does not have."""
    from transformers import GPT2Config, GPT2LMHeadModel  # takes seconds to import

    gpt = gpt_shape(shape)
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


def training(experiment: dict, batch: int, seconds: float):
    """A function that trains on random rows for about `seconds` and returns tokens a second."""
    import torch  # takes seconds to import

    network = model(experiment["model"]).train()
    rule = experiment["optimizer"]["rule"]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, (rule.get("beta1", 0.9), rule.get("beta2", 0.95)),
                                  fused=True)  # fmt: skip
    length = experiment["data"]["length"]
    rows = torch.from_numpy(
        np.random.default_rng(0).integers(0, experiment["model"]["vocab_size"], (64, batch, length))
    )
    clip = experiment["optimizer"]["clip"]

    def run_once() -> dict[str, float]:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            tokens = rows[steps % len(rows)]
            optimizer.zero_grad(set_to_none=True)
            network(tokens, labels=tokens).loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            steps += 1
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


def decoding(experiment: dict, batch: int, prompt: int, new: int):
    """A function that writes as launch/bench/decoding.py does and returns decoding_figures. A token has arrived when
    `generate` gives it to its streamer, which it does at every step: so nothing is run twice to time the prompt."""
    import torch  # takes seconds to import

    shape = experiment["model"]
    network = model({**shape, "context": max(shape["context"], prompt + new)}).eval()
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, shape["vocab_size"], (batch, prompt)))
    request = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def run_once() -> dict[str, float]:
        stopwatch = Stopwatch()
        with torch.inference_mode():
            network.generate(tokens, attention_mask=torch.ones_like(tokens), streamer=stopwatch, **request)
        return decoding_figures(stopwatch.arrivals[1:], batch)

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
