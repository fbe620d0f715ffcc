"""Finds the fastest mesh, number of microbatches and remat policy for given devices.

All of them are ranked by arithmetic, and the few best are compiled. launch/commands/plan.py calls `search`, and
`rank_candidates` alone where a config does not fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from launch.machine import auto, chips
from launch.machine.detection import cores
from launch.plan.compiled import Plan, compile_plan
from model import config as c
from model import cost
from model.kernels import KernelError
from model.sharding import ShardingError
from train.check import check
from train.config import Experiment, Mesh
from train.fields import ConfigError
from train.objective import training_flops

COMPILED, SECONDS = 4, 570.0  # so many of the best are compiled, while they would end within so many seconds
REMAT_POLICIES = ("minimal", "save_qkv", "full")
SHORTEST = 1024  # tokens of a row on one device at least, where the mesh splits time
MATMUL_SHARE, ATTENTION_SHARE = 0.85, 0.5  # of the peak, in products of weights and in attention


@dataclass(frozen=True)
class Candidate:
    """One way to run an experiment, with its bytes a device and seconds a step by arithmetic."""

    experiment: Experiment
    bytes: float
    seconds: float

    @property
    def settings(self) -> dict[str, object]:
        """What sets it apart, by config path, as --set takes it."""
        e = self.experiment
        mesh = {f"mesh.{axis}": size for axis, size in vars(e.mesh).items() if size != 1 or axis == "data"}
        return {**mesh, "microbatches": e.microbatches, "execution.remat": e.execution.remat}


def rank_candidates(experiment: Experiment, devices: list) -> list[Candidate]:
    """Every way to run the experiment that fits by arithmetic, fastest first. Raises ConfigError without TPUs."""
    tpu = chips.TPUS.get(chips.generation(devices[0].device_kind) or "")
    if tpu is None:
        raise ConfigError("--search ranks by what links of a TPU carry; name one with --topology")
    room = auto.MEMORY_SHARE * tpu.memory
    axes = sum(len(set(places)) > 1 for places in zip(*(device.coords for device in devices), strict=True))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    candidates, optimizer = [], auto.optimizer_numbers(experiment)
    for e in all_ways(experiment, len(devices), slices):
        size = cost.estimate_memory(
            e.model, e.execution, vars(e.mesh), e.batch_size // e.microbatches, e.data.length,
            optimizer, e.microbatches > 1,
        ).total  # fmt: skip
        if size <= room:
            candidates.append(Candidate(e, size, estimate_seconds(e, tpu, max(1, axes))))
    return sorted(candidates, key=lambda candidate: candidate.seconds)


def all_ways(experiment: Experiment, devices: int, slices: int) -> Iterator[Experiment]:
    """The experiment on every possible mesh, with every number of microbatches and every remat policy."""
    execution = auto.resolve_auto(experiment.execution, "tpu")
    for mesh in possible_meshes(experiment, devices, slices):
        row_shards = mesh.replica * mesh.data * mesh.expert
        rows = experiment.batch_size // row_shards
        for microbatches in (m for m in powers_of_two(rows) if experiment.batch_size % (m * row_shards) == 0):
            for remat in REMAT_POLICIES:
                chosen = replace(execution, remat=remat)
                yield replace(experiment, mesh=mesh, microbatches=microbatches, execution=chosen)


def possible_meshes(experiment: Experiment, devices: int, slices: int) -> Iterator[Mesh]:
    """Every mesh whose sizes divide what they split."""
    e, model = experiment, experiment.model
    inside = devices // slices
    repeats = math.gcd(*(stack.repeats for stack in model.layers))
    attentions = [block.mixer for block in c.blocks(model) if isinstance(block.mixer, c.Attention)]
    recurrent = len(attentions) < len(c.blocks(model))
    hidden = [size for block in c.blocks(model) for size in hidden_widths(block.feed_forward)]
    heads = math.gcd(*(size for mixer in attentions for size in (mixer.heads, mixer.kv_heads)), *hidden) or 1
    mixtures = [block.feed_forward for block in c.blocks(model) if isinstance(block.feed_forward, c.MoE)]
    experts = math.gcd(*(mixture.experts for mixture in mixtures)) or 1  # dense: as data does
    for stage in powers_of_two(math.gcd(repeats, inside)):
        for tensor in powers_of_two(math.gcd(heads, inside // stage)):
            for context in (
                n
                for n in powers_of_two(inside // stage // tensor)
                if n == 1 or (e.data.length >= SHORTEST * n and not recurrent)
            ):
                for expert in powers_of_two(math.gcd(experts, inside // stage // tensor // context)):
                    data, rest = divmod(inside, stage * tensor * context * expert)
                    divides = model.width % (data * context * expert) == 0 == model.vocab_size % (tensor * stage)
                    if not rest and divides and e.batch_size % (slices * data * expert) == 0:
                        yield Mesh(slices, data, context, tensor, expert, stage)


def hidden_widths(feed_forward: c.MLP | c.MoE | None) -> list[int]:
    """The sizes that mesh.tensor has to divide."""
    if feed_forward is None:
        return []
    shared = feed_forward.shared if isinstance(feed_forward, c.MoE) else 0
    return [feed_forward.width, shared or feed_forward.width]


def powers_of_two(limit: int) -> Iterator[int]:
    """The powers of two that divide `limit`."""
    return (n for n in (2**i for i in range(limit.bit_length())) if limit % n == 0)


def estimate_seconds(e: Experiment, tpu: chips.TPU, axes: int) -> float:
    """Seconds of a step by arithmetic: good enough to rank by, no more. Gathers of weights hide behind products; what a
    layer needs before it can go on does not."""
    model, mesh, itemsize = e.model, e.mesh, 2
    devices = math.prod(vars(mesh).values())
    tokens = e.batch_size * e.data.length / (mesh.replica * mesh.data * mesh.context * mesh.expert)
    blocks, layers = c.blocks(model), len(c.blocks(model)) / mesh.stage
    scores = 3 * cost.score_flops(model, e.data.length)
    recomputed = sum(recomputed_flops(block, model.width, e.execution.remat) for block in blocks)
    products = training_flops(e) - scores + recomputed
    work = e.batch_size * e.data.length / devices * (products / MATMUL_SHARE + scores / ATTENTION_SHARE) / tpu.peak
    if mesh.stage > 1:
        parts = cost.pipeline_microbatches(e.execution, vars(mesh), e.batch_size // e.microbatches)
        work *= (parts + mesh.stage - 1) / parts
    split = mesh.data * mesh.context * mesh.expert
    others = sum(size > 1 for size in (mesh.tensor, mesh.stage))
    link = 2 * tpu.link
    gathered = itemsize * cost.matrix_parameters(model) / (mesh.tensor * mesh.stage) * (split - 1) / split
    # Gathered forward and backward, gradients reduced: four times the bytes of the weights, for each microbatch.
    hidden = e.microbatches * 4 * gathered / (link * max(1, axes - others))
    residual = tokens * model.width * itemsize * layers
    waits = 8 * residual * (mesh.tensor - 1) / mesh.tensor / link  # two all-reduces forward, two backward
    waits += 4 * residual * (mesh.expert - 1) / link  # tokens gathered, results scattered; and back
    attentions = [block.mixer for block in blocks if isinstance(block.mixer, c.Attention)]
    keys = sum(mixer.kv_heads * mixer.head_width for mixer in attentions) / mesh.stage / mesh.tensor
    waits += 3 * tokens * keys * itemsize * (mesh.context - 1) / link  # keys and values, half of it hidden
    shard = 4 * cost.matrix_parameters(model) / (devices / mesh.replica)
    waits += 2 * shard * (mesh.replica - 1) / mesh.replica / tpu.network
    return max(work, hidden) + waits


def recomputed_flops(block: c.Block, width: int, remat: str) -> float:
    """FLOPs a token that the backward pass of a layer computes again."""
    if remat == "minimal" or block.feed_forward is None:
        return 0.0
    if remat == "full":
        return 2.0 * cost.block_matmul_parameters(block, width)
    into = cost.FEED_FORWARDS[type(block.feed_forward)](block.feed_forward, width)
    return 2.0 * into * (2 / 3 if block.feed_forward.gated else 1 / 2)


def search(experiment: Experiment, devices: list, say: Callable[[str], None]) -> list[tuple[Candidate, Plan]]:
    """Compiles the best candidates by arithmetic. Returns those that fit before the others, fastest first.

    As many are compiled at once as there are cores: the compiler uses little more than one. `say` is given lines of
    progress. Raises ConfigError where nothing fits by arithmetic, or nothing of it compiles.
    """
    started, took, compiled = time.monotonic(), 0.0, []
    waiting = alternate_meshes(rank_candidates(experiment, devices))
    if not waiting:
        raise ConfigError(
            f"nothing fits {len(devices)} devices of {chips.memory(devices[0]) / chips.GIB:.2f} GiB with "
            f"batch_size={experiment.batch_size}; take more devices, or shorter rows (data.length)"
        )

    def attempt(candidate: Candidate) -> Plan | None:
        say(f"compiling {format_settings(candidate.settings)}")
        try:
            check(candidate.experiment)
            plan = compile_plan(candidate.experiment, devices)
        except (ShardingError, KernelError, ConfigError) as error:
            say(f"  {format_settings(candidate.settings)} left out: {error}")
            return None
        timed = f"{plan.seconds:.4g} s" if plan.fits else "too much"
        say(f"  {format_settings(candidate.settings)}: {plan.peak_bytes / chips.GIB:.2f} GiB, {timed}")
        return plan

    together = min(COMPILED, cores())
    with ThreadPoolExecutor(together) as pool:
        while waiting and len(compiled) < COMPILED and (not compiled or time.monotonic() - started + took < SECONDS):
            before, count = time.monotonic(), min(together, COMPILED - len(compiled))
            batch, waiting = waiting[:count], waiting[count:]
            plans = zip(batch, pool.map(attempt, batch), strict=True)
            compiled += [(candidate, plan) for candidate, plan in plans if plan]
            took = time.monotonic() - before
    if not compiled:
        raise ConfigError("none of the best by arithmetic could be compiled; the lines above say why")
    return sorted(compiled, key=lambda pair: (not pair[1].fits, pair[1].seconds or math.inf))


def alternate_meshes(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates reordered: first the fastest of every mesh, then the second of every mesh, and so on."""
    seen: dict[Mesh, int] = {}
    order = []
    for index, candidate in enumerate(candidates):
        rank = seen[candidate.experiment.mesh] = seen.get(candidate.experiment.mesh, 0) + 1
        order.append((rank, index, candidate))
    return [candidate for _, _, candidate in sorted(order, key=lambda entry: entry[:2])]


def format_settings(settings: dict[str, object]) -> str:
    """Settings as arguments of a command."""
    return " ".join(f"--set {path}={value}" for path, value in settings.items())
