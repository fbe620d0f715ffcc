"""Estimates how long a compiled program takes on a TPU, by a walk through the compiler's schedule.

It assumes: a fusion or a copy takes the cycles that the compiler's cost model gives it; a Pallas kernel runs at half of
the device's peak; transfers between memories or devices overlap with computation, and only what has not arrived when it
is needed is waited for; links carry one collective at a time, at their full rate. launch/plan/page.py prints the
estimate, launch/plan/search.py ranks by it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from launch.machine.chips import TPU
from launch.plan import hlo, products
from launch.plan.hlo import DEVICE, HOST, Instruction, Program

KERNEL_SHARE = 0.5  # of the peak, in a Pallas kernel
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
    """The time of one run of a computation, its FLOPs, and its bytes on the wire by kind of collective.

    `seconds` by cause sum to the whole: `compute` (products and kernels bound by arithmetic), `memory` (whatever else
    the device does), and waits for `links`, `network` (between slices), `host` and `prefetch`.
    """

    seconds: Counter = field(default_factory=Counter)
    flops: float = 0.0
    wire: Counter = field(default_factory=Counter)
    exposed: Counter = field(default_factory=Counter)  # seconds, by kind of collective
    busy: Counter = field(default_factory=Counter)  # seconds of collectives, hidden or not, by kind
    uncounted: int = 0  # loops of unknown trip count, taken as one turn

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
    """The devices of a program, by number: int coordinates in their torus [devices, axes], and slices [devices]."""

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
    """The time of one device's program, given as text."""
    program = hlo.read(text)
    return Walk(program, machine).run(program.entry)


class Walk:
    """A walk through one program on one machine; `run` times a computation."""

    def __init__(self, program: Program, machine: Machine):
        self.program, self.machine, self.chip = program, machine, machine.chip

    def run(self, name: str) -> StepTime:
        """Times a computation from its start to its end, with nothing in flight before."""
        computation, time = self.program.computations[name], StepTime()
        free: Counter = Counter()  # by route: when it is free again, seconds from the start
        ready: dict[object, tuple[float, str, str]] = {}  # transfers in flight: when each arrives, its route, its kind

        def begin(key, route: str, seconds: float, kind: str) -> None:
            free[route] = max(free[route], time.total) + seconds
            ready[key] = free[route], route, kind

        def wait(key) -> None:
            arrival, route, kind = ready.pop(key, (0.0, "", ""))
            late = arrival - time.total
            if late > 0:
                time.seconds[route] += late
                if kind:
                    time.exposed[kind] += late

        for instruction in computation.values():
            if instruction.opcode in FREE:
                continue
            if instruction.opcode == "while":
                times = hlo.trip_count(self.program, computation, instruction)
                time.uncounted += times is None
                time.add(self.run(instruction.called("body")), times or 1)
            elif instruction.opcode == "conditional":
                time.add(max(map(self.run, self.branches(instruction)), key=lambda s: s.total))
            elif instruction.opcode == "call":
                time.add(self.run(instruction.called("to_apply")))
            elif (key := self.waits_for(instruction)) is not None:
                wait(key)
            elif (transfer := self.starts(instruction, computation)) is not None:
                begin(transfer[0], *self.transfer(transfer[1], time))
            elif instruction.opcode in COLLECTIVES:
                begin(instruction.name, *self.transfer(instruction, time))
                wait(instruction.name)
            elif instruction.opcode in CALLS_START + CALLS_UPDATE:
                continue
            else:
                self.execute(instruction, computation, time)
        for key in list(ready):
            wait(key)
        return time

    def branches(self, instruction: Instruction) -> list[str]:
        names = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        if names:
            return re.findall(r"%([\w.\-]+)", names[1])
        return [instruction.called("true_computation"), instruction.called("false_computation")]

    def starts(
        self, instruction: Instruction, computation: dict[str, Instruction]
    ) -> tuple[object, Instruction] | None:
        """The transfer that an instruction starts and does not wait for, behind the key to wait for it by; or None."""
        if instruction.opcode in CALLS_START:  # armed at first, where its operands come later
            return (instruction.name, self.collective_in(instruction)) if instruction.operands else None
        if instruction.opcode in CALLS_UPDATE:
            armed = computation[instruction.operands[0]]
            return None if armed.operands else (instruction.name, self.collective_in(armed))
        if instruction.opcode.endswith("-start"):
            return instruction.name, instruction
        if instruction.opcode == "fusion" and any(
            target(i) == "AsyncCollectiveStart" for i in self.program.inside(instruction)
        ):
            moved = self.collective_in(instruction)
            return channel(moved), moved
        return None

    def collective_in(self, call: Instruction) -> Instruction:
        """The collective inside an asynchronous call; the call itself where there is none."""
        return next((i for i in self.program.inside(call) if i.opcode in COLLECTIVES), call)

    def waits_for(self, instruction: Instruction) -> object | None:
        """The key of the transfer that an instruction waits for; None where it waits for none."""
        if instruction.opcode.endswith("-done"):
            return instruction.operands[0]
        if instruction.opcode == "fusion" and any(
            target(i) == "AsyncCollectiveDone" for i in self.program.inside(instruction)
        ):
            return channel(self.collective_in(instruction))
        return None

    def transfer(self, instruction: Instruction, time: StepTime) -> tuple[str, float, str]:
        """The route of a transfer, its seconds, and its kind of collective ('' for a copy)."""
        kind = next((c for c in COLLECTIVES if instruction.opcode in (c, f"{c}-start")), "")
        if not kind:
            spaces = {a.space for a in instruction.arrays}
            size = max((a.bytes for a in instruction.arrays), default=0)
            if HOST in spaces:
                return "host", size / HOST_LINK, ""
            return "prefetch", size / self.chip.bandwidth, ""
        route, seconds, size = self.collective(kind, instruction)
        time.wire[kind] += size
        time.busy[kind] += seconds
        return route, seconds, kind

    def collective(self, kind: str, instruction: Instruction) -> tuple[str, float, float]:
        """The route of a collective, its seconds, and the bytes that one device sends."""
        groups = hlo.groups(instruction)
        if kind == "collective-permute":
            if groups is None or not len(groups):
                return "links", 0.0, 0.0
            result_bytes = instruction.arrays[
                -1 if instruction.opcode == kind else 1
            ].bytes  # started: what is sent, what comes, flags
            if (self.machine.slices[groups[:, 0]] != self.machine.slices[groups[:, 1]]).any():
                return "network", result_bytes / self.chip.network, result_bytes
            hops = self.hops(groups).max()
            return "links", result_bytes * max(1, hops) / 2 / self.chip.link + HOP * hops, result_bytes
        members = np.arange(len(self.machine.coords)) if groups is None else groups[0]
        count = len(members)
        result_bytes = instruction.bytes
        if instruction.opcode == "all-gather-start":  # its result names what goes in, too
            result_bytes *= count / (count + 1)
        rounds = {"all-reduce": 2, "reduce-scatter": count}.get(kind, 1)
        sent = rounds * result_bytes * (count - 1) / count  # by a device, around a ring
        mine = members[self.machine.slices[members] == self.machine.slices[members[0]]]
        inside, between = len(mine), count // len(mine)
        seconds = self.inside(kind, mine, instruction, rounds * result_bytes)
        if between == 1:
            return "links", seconds, sent
        left = {"all-gather": 1 / inside, "all-reduce": 2 / inside, "reduce-scatter": between}.get(kind, 1)
        return "network", seconds + left * result_bytes * (between - 1) / between / self.chip.network, sent

    def inside(self, kind: str, members: np.ndarray, instruction: Instruction, size: float) -> float:
        """Seconds of a collective among devices of one slice: `size` bytes around a ring of all of them."""
        if len(members) == 1:
            return 0.0
        links, hops = self.links(members, instruction)
        if kind in ("all-to-all", "ragged-all-to-all"):
            return size * hops / 4 / (links * self.chip.link) + HOP * hops
        moved = size * (len(members) - 1) / len(members)
        return moved / (links * self.chip.link) + HOP * hops * (2 if kind == "all-reduce" else 1)

    def hops(self, pairs: np.ndarray) -> np.ndarray:
        """The links between the devices of each pair, the short way round. int [pairs, 2] -> [pairs]."""
        size = self.machine.axes()
        apart = abs(self.machine.coords[pairs[:, 0]] - self.machine.coords[pairs[:, 1]])
        closed = size % self.chip.ring == 0
        return np.where(closed, np.minimum(apart, size - apart), apart).sum(1)

    def links(self, members: np.ndarray, instruction: Instruction) -> tuple[int, float]:
        """How many links of a device a collective among `members` uses at once, and the hops to the farthest."""
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
        emitter = instruction.config.get("collective_algorithm_config", {}).get("emitter", "")
        return (min(links, 2), float(len(members)) / 2) if emitter.startswith("1D") else (links, hops)

    def execute(self, instruction: Instruction, computation: dict[str, Instruction], time: StepTime) -> None:
        """Adds the time and the FLOPs of an instruction that the device itself executes."""
        flops, kernel = 0.0, None
        for scope, inner in self.with_inner(instruction, computation):
            if inner.opcode in ("dot", "convolution"):
                flops += products.flops(inner, tuple(scope[name].arrays[0] for name in inner.operands[:2]))
            elif target(inner) == "tpu_custom_call":
                kernel = inner.config.get("custom_call_config", {}).get("cost_estimate", {})
                flops += float(kernel.get("flops", 0))
        arithmetic = flops / self.chip.peak
        if kernel is not None:
            arithmetic /= KERNEL_SHARE
        if instruction.cycles is not None:
            seconds = instruction.cycles / self.chip.clock
        else:
            seconds = max(arithmetic, self.traffic(instruction, computation) / self.chip.bandwidth)
        time.flops += flops
        time.seconds["compute" if arithmetic > seconds / 2 else "memory"] += seconds

    def with_inner(self, instruction: Instruction, computation: dict[str, Instruction]):
        yield computation, instruction
        name = instruction.called("calls")
        for inner in self.program.computations.get(name or "", {}).values():
            yield from self.with_inner(inner, self.program.computations[name])

    def traffic(self, instruction: Instruction, computation: dict[str, Instruction]) -> float:
        """Bytes of the device's memory that an instruction reads and writes."""
        if instruction.opcode == "custom-call" and target(instruction) != "tpu_custom_call":
            return 0.0
        read = [
            a
            for name in instruction.operands
            if name in computation
            for a in computation[name].arrays
            if computation[name].opcode != "tuple"
        ]
        return sum(a.bytes for a in (*read, *instruction.arrays) if a.space == DEVICE)


def target(instruction: Instruction) -> str:
    if instruction.opcode != "custom-call":
        return ""
    start = instruction.attributes.find('custom_call_target="')
    return instruction.attributes[start + 20 : instruction.attributes.find('"', start + 20)] if start >= 0 else ""


def channel(instruction: Instruction) -> str:
    start = instruction.attributes.find("channel_id=")
    return instruction.attributes[start : instruction.attributes.find(",", start)] if start >= 0 else instruction.name
