"""How long a compiled program takes on a TPU: a walk through its schedule, as the compiler laid it out.

An estimate. What it assumes: a fusion or a copy takes the cycles that the compiler's cost model gives it; a Pallas
kernel half of the device's peak; what moves between memories or devices while something is computed costs no more than
its own time, and only what is not there yet when it is needed is waited for; links carry one collective at a time, at
their full rate. launch/plan/page.py prints it, launch/plan/search.py ranks by it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from launch.machine.chips import TPU
from launch.plan import hlo, products
from launch.plan.hlo import DEVICE, HOST, Instruction, Program

KERNEL = 0.5  # of the peak, in a Pallas kernel
HOP = 1e-6  # seconds from a device to its neighbour
HOST_LINK = 16e9  # bytes/s between a device and its host
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
FREE = {
    "get-tuple-element", "tuple", "bitcast", "parameter", "constant", "partition-id", "replica-id", "after-all",
    "opt-barrier", "add-dependency",
}  # fmt: skip
CALLS_START = ("async-start", "call-start", "custom-call-start")
CALLS_UPDATE = ("async-update", "call-update", "custom-call-update")


@dataclass
class StepTime:
    """Of one run of a computation: seconds by what was busy, FLOPs, bytes on the wire by kind of collective.

    `seconds` sum to the whole: `compute` (products and kernels that arithmetic bounds), `memory` (the rest of what
    devices do), and what they only wait for: `links`, `network` (between slices), `host`, `prefetch`.
    """

    seconds: Counter = field(default_factory=Counter)
    flops: float = 0.0
    wire: Counter = field(default_factory=Counter)
    exposed: Counter = field(default_factory=Counter)  # seconds, by kind of collective
    busy: Counter = field(default_factory=Counter)  # seconds of collectives, hidden or not, by kind
    uncounted: int = 0  # loops whose turns nothing tells: taken as one turn

    def add(self, other: StepTime, times: float = 1) -> None:
        for name in ("seconds", "wire", "exposed", "busy"):
            for key, value in getattr(other, name).items():
                getattr(self, name)[key] += times * value
        self.flops += times * other.flops
        self.uncounted += other.uncounted

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Machine:
    """`coords` int [devices, axes]: where a program's devices stand in their torus, by number; `slices` [devices]."""

    chip: TPU
    coords: np.ndarray
    slices: np.ndarray

    @staticmethod
    def of(chip: TPU, devices: list) -> Machine:
        coords = np.array([device.coords for device in devices])
        return Machine(chip, coords, np.array([getattr(device, "slice_index", 0) or 0 for device in devices]))

    def axes(self) -> np.ndarray:
        return self.coords.max(0) + 1


def estimate(text: str, machine: Machine) -> StepTime:
    """Of one device's program."""
    program = hlo.read(text)
    return Walk(program, machine).run(program.entry)


class Walk:
    """One program on one machine; `run` times a computation."""

    def __init__(self, program: Program, machine: Machine):
        self.program, self.machine, self.chip = program, machine, machine.chip

    def run(self, name: str) -> StepTime:
        """A computation from its start to its end, with nothing in flight before."""
        here, spent = self.program.computations[name], StepTime()
        free: Counter = Counter()  # when each way is free again, seconds from the start
        ready: dict[object, tuple[float, str, str]] = {}  # what was started: when it is there, by which way, its kind

        def begin(key, way: str, seconds: float, kind: str) -> None:
            free[way] = max(free[way], spent.total) + seconds
            ready[key] = free[way], way, kind

        def wait(key) -> None:
            there, way, kind = ready.pop(key, (0.0, "", ""))
            late = there - spent.total
            if late > 0:
                spent.seconds[way] += late
                if kind:
                    spent.exposed[kind] += late

        for made in here.values():
            if made.opcode in FREE:
                continue
            if made.opcode == "while":
                times = hlo.trip_count(self.program, here, made)
                spent.uncounted += times is None
                spent.add(self.run(made.called("body")), times or 1)
            elif made.opcode == "conditional":
                spent.add(max(map(self.run, self.branches(made)), key=lambda s: s.total))
            elif made.opcode == "call":
                spent.add(self.run(made.called("to_apply")))
            elif (key := self.finished(made)) is not None:
                wait(key)
            elif (moves := self.started(made, here)) is not None:
                begin(moves[0], *self.moved(moves[1], spent))
            elif made.opcode in COLLECTIVES:
                begin(made.name, *self.moved(made, spent))
                wait(made.name)
            elif made.opcode in CALLS_START + CALLS_UPDATE:
                continue
            else:
                self.computed(made, here, spent)
        for key in list(ready):
            wait(key)
        return spent

    def branches(self, made: Instruction) -> list[str]:
        names = re.search(r"branch_computations=\{([^}]*)\}", made.attributes)
        if names:
            return re.findall(r"%([\w.\-]+)", names[1])
        return [made.called("true_computation"), made.called("false_computation")]

    def started(self, made: Instruction, here: dict[str, Instruction]) -> tuple[object, Instruction] | None:
        """What an instruction sets moving without waiting for it, and the key it is waited for by."""
        if made.opcode in CALLS_START:  # armed at first, where its operands come later
            return (made.name, self.moving(made)) if made.operands else None
        if made.opcode in CALLS_UPDATE:
            armed = here[made.operands[0]]
            return None if armed.operands else (made.name, self.moving(armed))
        if made.opcode.endswith("-start"):
            return made.name, made
        if made.opcode == "fusion" and any(target(i) == "AsyncCollectiveStart" for i in self.program.inside(made)):
            moved = self.moving(made)
            return channel(moved), moved
        return None

    def moving(self, call: Instruction) -> Instruction:
        """The collective in what a call runs beside the rest; the call itself where there is none."""
        return next((i for i in self.program.inside(call) if i.opcode in COLLECTIVES), call)

    def finished(self, made: Instruction) -> object | None:
        """The key of what an instruction waits for."""
        if made.opcode.endswith("-done"):
            return made.operands[0]
        if made.opcode == "fusion" and any(target(i) == "AsyncCollectiveDone" for i in self.program.inside(made)):
            return channel(self.moving(made))
        return None

    def moved(self, made: Instruction, spent: StepTime) -> tuple[str, float, str]:
        """Over which way something moves, how long, and what kind of collective it is ('' for a copy)."""
        kind = next((c for c in COLLECTIVES if made.opcode in (c, f"{c}-start")), "")
        if not kind:
            spaces = {a.space for a in made.arrays}
            size = max((a.bytes for a in made.arrays), default=0)
            if HOST in spaces:
                return "host", size / HOST_LINK, ""
            return "prefetch", size / self.chip.bandwidth, ""
        way, seconds, size = self.collective(kind, made)
        spent.wire[kind] += size
        spent.busy[kind] += seconds
        return way, seconds, kind

    def collective(self, kind: str, made: Instruction) -> tuple[str, float, float]:
        """Its way, its seconds, and the bytes that one device sends."""
        groups = hlo.groups(made)
        if kind == "collective-permute":
            if groups is None or not len(groups):
                return "links", 0.0, 0.0
            made_bytes = made.arrays[-1 if made.opcode == kind else 1].bytes  # started: what is sent, what comes, flags
            if (self.machine.slices[groups[:, 0]] != self.machine.slices[groups[:, 1]]).any():
                return "network", made_bytes / self.chip.network, made_bytes
            hops = self.hops(groups).max()
            return "links", made_bytes * max(1, hops) / 2 / self.chip.link + HOP * hops, made_bytes
        members = np.arange(len(self.machine.coords)) if groups is None else groups[0]
        count = len(members)
        made_bytes = made.bytes
        if made.opcode == "all-gather-start":  # its result names what goes in, too
            made_bytes *= count / (count + 1)
        rounds = {"all-reduce": 2, "reduce-scatter": count}.get(kind, 1)
        sent = rounds * made_bytes * (count - 1) / count  # by a device, around a ring
        mine = members[self.machine.slices[members] == self.machine.slices[members[0]]]
        inside, between = len(mine), count // len(mine)
        seconds = self.inside(kind, mine, made, rounds * made_bytes)
        if between == 1:
            return "links", seconds, sent
        left = {"all-gather": 1 / inside, "all-reduce": 2 / inside, "reduce-scatter": between}.get(kind, 1)
        return "network", seconds + left * made_bytes * (between - 1) / between / self.chip.network, sent

    def inside(self, kind: str, members: np.ndarray, made: Instruction, size: float) -> float:
        """Seconds of what moves among devices of one slice, `size` bytes around a ring of all of them."""
        if len(members) == 1:
            return 0.0
        links, hops = self.links(members, made)
        if kind in ("all-to-all", "ragged-all-to-all"):
            return size * hops / 4 / (links * self.chip.link) + HOP * hops
        moved = size * (len(members) - 1) / len(members)
        return moved / (links * self.chip.link) + HOP * hops * (2 if kind == "all-reduce" else 1)

    def hops(self, pairs: np.ndarray) -> np.ndarray:
        """Links from one device to another, the short way round."""
        size = self.machine.axes()
        apart = abs(self.machine.coords[pairs[:, 0]] - self.machine.coords[pairs[:, 1]])
        closed = size % self.chip.ring == 0
        return np.where(closed, np.minimum(apart, size - apart), apart).sum(1)

    def links(self, members: np.ndarray, made: Instruction) -> tuple[int, float]:
        """How many links of a device a collective among these uses at once, and the hops to the farthest."""
        coords, size = self.machine.coords[members], self.machine.axes()
        spans = [len(set(column.tolist())) for column in coords.T]
        links, hops = 0, 0.0
        for span, whole in zip(spans, size, strict=True):
            if span > 1:
                closed = span == whole and whole % self.chip.ring == 0
                links += 2 if closed else 1
                hops += span / 2 if closed else span - 1
        if not links:  # on one chip
            return 2, 0.0
        emitter = made.config.get("collective_algorithm_config", {}).get("emitter", "")
        return (min(links, 2), float(len(members)) / 2) if emitter.startswith("1D") else (links, hops)

    def computed(self, made: Instruction, here: dict[str, Instruction], spent: StepTime) -> None:
        """What the device itself does."""
        flops, kernel = 0.0, None
        for scope, inner in self.with_inside(made, here):
            if inner.opcode in ("dot", "convolution"):
                flops += products.flops(inner, tuple(scope[name].arrays[0] for name in inner.operands[:2]))
            elif target(inner) == "tpu_custom_call":
                kernel = inner.config.get("custom_call_config", {}).get("cost_estimate", {})
                flops += float(kernel.get("flops", 0))
        arithmetic = flops / self.chip.peak
        if kernel is not None:
            arithmetic /= KERNEL
        if made.cycles is not None:
            seconds = made.cycles / self.chip.clock
        else:
            seconds = max(arithmetic, self.traffic(made, here) / self.chip.bandwidth)
        spent.flops += flops
        spent.seconds["compute" if arithmetic > seconds / 2 else "memory"] += seconds

    def with_inside(self, made: Instruction, here: dict[str, Instruction]):
        yield here, made
        name = made.called("calls")
        for inner in self.program.computations.get(name or "", {}).values():
            yield from self.with_inside(inner, self.program.computations[name])

    def traffic(self, made: Instruction, here: dict[str, Instruction]) -> float:
        """Bytes of the device's memory that an instruction reads and writes."""
        if made.opcode == "custom-call" and target(made) != "tpu_custom_call":
            return 0.0
        read = [a for name in made.operands if name in here for a in here[name].arrays if here[name].opcode != "tuple"]
        return sum(a.bytes for a in (*read, *made.arrays) if a.space == DEVICE)


def target(made: Instruction) -> str:
    if made.opcode != "custom-call":
        return ""
    start = made.attributes.find('custom_call_target="')
    return made.attributes[start + 20 : made.attributes.find('"', start + 20)] if start >= 0 else ""


def channel(made: Instruction) -> str:
    start = made.attributes.find("channel_id=")
    return made.attributes[start : made.attributes.find(",", start)] if start >= 0 else made.name
