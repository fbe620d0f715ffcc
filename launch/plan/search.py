"""Which mesh, how many microbatches and which remat policy are fastest on given devices: all are weighed by arithmetic,
the few best are compiled.

launch/plan/page.py asks for both, `ranked` alone where a config does not fit.
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

COMPILED, SECONDS = 4, 570.0  # of the best; none is begun that would end after so many seconds
REMATS = ("minimal", "save_qkv", "full")
SHORTEST = 1024  # tokens of a row on one device, where the mesh splits time
MATMUL, KERNEL = 0.85, 0.5  # of the peak: products of weights, and attention's


@dataclass(frozen=True)
class Candidate:
    """One way to run an experiment, with what arithmetic says of it: a device's bytes, a step's seconds."""

    experiment: Experiment
    bytes: float
    seconds: float

    @property
    def settings(self) -> dict[str, object]:
        """By path, as --set takes them."""
        e = self.experiment
        mesh = {f"mesh.{axis}": size for axis, size in vars(e.mesh).items() if size != 1 or axis == "data"}
        return {**mesh, "microbatches": e.microbatches, "execution.remat": e.execution.remat}


def rank_candidates(experiment: Experiment, devices: list) -> list[Candidate]:
    """Every way that fits by arithmetic, fastest first."""
    tpu = chips.TPUS.get(chips.generation(devices[0].device_kind) or "")
    if tpu is None:
        raise ConfigError("--search ranks by what links of a TPU carry; name one with --topology")
    room = auto.ROOM * tpu.memory
    axes = sum(len(set(places)) > 1 for places in zip(*(device.coords for device in devices), strict=True))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    found, kept = [], auto.optimizer_numbers(experiment)
    for e in all_ways(experiment, len(devices), slices):
        size = cost.estimate_memory(
            e.model, e.execution, vars(e.mesh), e.batch_size // e.microbatches, e.data.length,
            kept, e.microbatches > 1,
        ).total  # fmt: skip
        if size <= room:
            found.append(Candidate(e, size, estimate_seconds(e, tpu, max(1, axes))))
    return sorted(found, key=lambda candidate: candidate.seconds)


def all_ways(experiment: Experiment, devices: int, slices: int) -> Iterator[Experiment]:
    """Every mesh whose sizes divide what they split, with every number of microbatches and remat policy."""
    execution = auto.resolve_auto(experiment.execution, "tpu")
    for mesh in possible_meshes(experiment, devices, slices):
        over = mesh.replica * mesh.data * mesh.expert
        rows = experiment.batch_size // over
        for microbatches in (m for m in powers_of_two(rows) if experiment.batch_size % (m * over) == 0):
            for remat in REMATS:
                kept = replace(execution, remat=remat)
                yield replace(experiment, mesh=mesh, microbatches=microbatches, execution=kept)


def possible_meshes(experiment: Experiment, devices: int, slices: int) -> Iterator[Mesh]:
    e, model = experiment, experiment.model
    inside = devices // slices
    repeats = math.gcd(*(stack.repeats for stack in model.layers))
    mixers = [block.mixer for block in c.blocks(model)]
    hidden = [size for block in c.blocks(model) for size in hidden_widths(block.feed_forward)]
    heads = math.gcd(*(mixer.heads for mixer in mixers), *(mixer.kv_heads for mixer in mixers), *hidden)
    mixtures = [block.feed_forward for block in c.blocks(model) if isinstance(block.feed_forward, c.MoE)]
    experts = math.gcd(*(mixture.experts for mixture in mixtures)) or 1  # dense: as data does
    for stage in powers_of_two(math.gcd(repeats, inside)):
        for tensor in powers_of_two(math.gcd(heads, inside // stage)):
            for context in (
                n for n in powers_of_two(inside // stage // tensor) if n == 1 or e.data.length >= SHORTEST * n
            ):
                for expert in powers_of_two(math.gcd(experts, inside // stage // tensor // context)):
                    data, rest = divmod(inside, stage * tensor * context * expert)
                    wide = model.width % (data * context * expert) == 0 == model.vocab_size % (tensor * stage)
                    if not rest and wide and e.batch_size % (slices * data * expert) == 0:
                        yield Mesh(slices, data, context, tensor, expert, stage)


def hidden_widths(feed_forward: c.MLP | c.MoE) -> list[int]:
    shared = feed_forward.shared if isinstance(feed_forward, c.MoE) else 0
    return [feed_forward.width, shared or feed_forward.width]


def powers_of_two(limit: int) -> Iterator[int]:
    """Powers of two that divide `limit`."""
    return (n for n in (2**i for i in range(limit.bit_length())) if limit % n == 0)


def estimate_seconds(e: Experiment, tpu: chips.TPU, axes: int) -> float:
    """A step's, by arithmetic: to rank by, not to believe. Gathers of weights hide behind products; what a layer needs
    before it can go on does not."""
    model, mesh, bits = e.model, e.mesh, 2
    devices = math.prod(vars(mesh).values())
    tokens = e.batch_size * e.data.length / (mesh.replica * mesh.data * mesh.context * mesh.expert)
    blocks, layers = c.blocks(model), len(c.blocks(model)) / mesh.stage
    scores = 3 * cost.score_flops(model, e.data.length)
    again = sum(recomputed_flops(block, model.width, e.execution.remat) for block in blocks)
    products = cost.training_flops(model, e.data.length) - scores + again
    work = e.batch_size * e.data.length / devices * (products / MATMUL + scores / KERNEL) / tpu.peak
    if mesh.stage > 1:
        parts = cost.pipeline_microbatches(e.execution, vars(mesh), e.batch_size // e.microbatches)
        work *= (parts + mesh.stage - 1) / parts
    split = mesh.data * mesh.context * mesh.expert
    others = sum(size > 1 for size in (mesh.tensor, mesh.stage))
    link = 2 * tpu.link
    gathered = bits * cost.matrix_parameters(model) / (mesh.tensor * mesh.stage) * (split - 1) / split
    # Gathered forward and backward, gradients reduced: four times the bytes of the weights, for each microbatch.
    hidden = e.microbatches * 4 * gathered / (link * max(1, axes - others))
    residual = tokens * model.width * bits * layers
    waits = 8 * residual * (mesh.tensor - 1) / mesh.tensor / link  # two all-reduces forward, two backward
    waits += 4 * residual * (mesh.expert - 1) / link  # tokens gathered, results scattered; and back
    keys = sum(block.mixer.kv_heads * block.mixer.head_width for block in blocks) / mesh.stage / mesh.tensor
    waits += 3 * tokens * keys * bits * (mesh.context - 1) / link  # keys and values, half of it hidden
    shard = 4 * cost.matrix_parameters(model) / (devices / mesh.replica)
    waits += 2 * shard * (mesh.replica - 1) / mesh.replica / tpu.network
    return max(work, hidden) + waits


def recomputed_flops(block: c.Block, width: int, remat: str) -> float:
    """FLOPs a token that a layer's backward pass makes again."""
    if remat == "minimal":
        return 0.0
    if remat == "full":
        return 2.0 * cost.block_matmul_parameters(block, width)
    into = cost.FEED_FORWARDS[type(block.feed_forward)](block.feed_forward, width)
    return 2.0 * into * (2 / 3 if block.feed_forward.gated else 1 / 2)


def search(experiment: Experiment, devices: list, say: Callable[[str], None]) -> list[tuple[Candidate, Plan]]:
    """The best by arithmetic, compiled, fastest first; those that fit before those that do not.

    As many at once as there are cores: the compiler uses little more than one. Raises ConfigError where nothing fits by
    arithmetic, or nothing of that compiles.
    """
    started, took, found = time.monotonic(), 0.0, []
    waiting = one_per_mesh(rank_candidates(experiment, devices))
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
        while waiting and len(found) < COMPILED and (not found or time.monotonic() - started + took < SECONDS):
            before, some = time.monotonic(), min(together, COMPILED - len(found))
            started_now, waiting = waiting[:some], waiting[some:]
            plans = zip(started_now, pool.map(attempt, started_now), strict=True)
            found += [(candidate, plan) for candidate, plan in plans if plan]
            took = time.monotonic() - before
    if not found:
        raise ConfigError("none of the best by arithmetic could be compiled; the lines above say why")
    return sorted(found, key=lambda pair: (not pair[1].fits, pair[1].seconds or math.inf))


def one_per_mesh(candidates: list[Candidate]) -> list[Candidate]:
    """The fastest of each mesh, in order; each mesh's second best after all those."""
    seen: dict[Mesh, int] = {}
    order = []
    for place, candidate in enumerate(candidates):
        number = seen[candidate.experiment.mesh] = seen.get(candidate.experiment.mesh, 0) + 1
        order.append((number, place, candidate))
    return [candidate for _, _, candidate in sorted(order, key=lambda entry: entry[:2])]


def format_settings(settings: dict[str, object]) -> str:
    return " ".join(f"--set {path}={value}" for path, value in settings.items())
