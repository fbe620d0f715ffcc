"""The peer's side of `skald bench train --against torch`: the same GPT in plain PyTorch, `eager` or `compiled`.

It trains on our own rows with our batch, microbatches, AdamW and clipping, on all cores, in float32; with the argument
bfloat16 its products are that. What it is spared helps it: no dropout, no borders between documents, a rate that stays.
It imports no JAX.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from data.pipeline import open_pipeline
from launch.bench.gpt_shape import gpt_shape
from launch.bench.peer import MIXED
from launch.bench.serving import serve
from launch.machine.detection import cache_folder, cores
from train import fields
from train.config import AdamW, Experiment, Optimizer

BATCHES = 16  # read ahead, then trained on again and again
WARM_UP = 3  # steps before the first run: compilation, and the optimizer's state


def training(
    experiment: dict, batch: int, seconds: float, compiled: bool, mixed: bool = False
) -> Callable[[], dict[str, float]]:
    """A function that trains for about `seconds` and returns tokens a second. Raises ValueError where it can't."""
    import torch

    from launch.bench.torch_gpt import GPT  # imports PyTorch, which `prepare` has found

    shape, e = gpt_shape(experiment["model"]), fields.from_json(Experiment, experiment)
    batches, network = read_batches(e, batch), GPT(shape).train()
    optimizer, loss = make_optimizer(network, e.optimizer), compile_loss(network.loss) if compiled else network.loss
    if mixed:
        loss = torch.autocast("cpu", torch.bfloat16)(loss)
    done = 0

    def step() -> None:
        nonlocal done
        train_step(loss, optimizer, batches[done % BATCHES], e.microbatches, e.optimizer.clip)
        done += 1

    for _ in range(WARM_UP):
        step()

    def run_once() -> dict[str, float]:
        start, first = time.perf_counter(), done
        while time.perf_counter() - start < seconds:
            step()
        return {"tokens_per_second": (done - first) * batch * e.data.length / (time.perf_counter() - start)}

    return run_once


def read_batches(experiment: Experiment, batch: int) -> list[tuple]:
    """The run's first batches, as tensors (tokens, targets) [B, T]."""
    import torch

    data = open_pipeline(experiment.data, batch, experiment.seed, cache_folder())
    rows = (data.rows(step, 0, batch) for step in range(BATCHES))
    return [(torch.from_numpy(r.tokens).long(), torch.from_numpy(r.targets).long()) for r in rows]


def make_optimizer(network, optimizer: Optimizer):
    """Fused AdamW with the config's numbers; weight decay on matrices only. Raises ValueError for another rule."""
    import torch

    rule = optimizer.rule
    if not isinstance(rule, AdamW):
        raise ValueError("the peer trains with AdamW; --set optimizer.rule=adamw compares like with like")
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": rule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = rule.beta1, rule.beta2
    return torch.optim.AdamW([g for g in groups if g["params"]], optimizer.peak_rate, betas, rule.epsilon, fused=True)


def train_step(loss: Callable, optimizer, batch: tuple, microbatches: int, clip: float | None) -> None:
    """One update with a batch (tokens, targets), which is split into microbatches."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    for tokens_BT, targets_BT in zip(*(x.chunk(microbatches) for x in batch), strict=True):
        (loss(tokens_BT, targets_BT) / microbatches).backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def compile_loss(loss: Callable) -> Callable:
    """The loss compiled, forward and backward. Raises ValueError where PyTorch's compiler does not work."""
    import torch

    try:  # needs a C++ compiler and Python's headers: a small program tells before a large one fails at length
        torch.compile(lambda x: (x * x).sum())(torch.ones(8, requires_grad=True)).backward()
    except Exception as error:  # of many classes, by what is missing
        reason = " ".join(str(error).split()).partition(" Set TORCH")[0][:160]
        raise ValueError(f"PyTorch compiled is left out: {reason} (it needs a C++ compiler, such as g++)") from None
    return torch.compile(loss)


def prepare(*modes: str) -> str:
    """Sets PyTorch up; returns the peer's name and version. Raises ImportError where it is missing."""
    import torch

    torch.set_num_threads(cores())
    return f"PyTorch {torch.__version__} {', products in '.join(modes)}"


if __name__ == "__main__":
    modes = sys.argv[1:-3]  # eager or compiled, and bfloat16 or nothing

    def train(experiment: dict, **case):
        return training(experiment, **case, compiled="compiled" in modes, mixed=MIXED in modes)

    serve(lambda: prepare(*modes), {"train": train}, "torch")
