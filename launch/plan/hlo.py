"""Parses the text of a compiled program (HLO) into computations and instructions, as far as an estimate needs them.

launch/plan/estimate.py walks them, launch/plan/products.py counts their FLOPs. The text is what `compiled.as_text()`
gives: the scheduled program of one device.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTHS = {"pred": 8, "token": 0, "opaque": 0, "f8e4m3fn": 8, "f8e5m2": 8}  # bits; other types end in theirs
ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
ASSIGNMENT = re.compile(r"(ROOT )?%?([\w.\-]+) = ")  # a program before compilation has no % in it
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (\(.*)?\{$")
START = re.compile(r"  (ROOT )?%?[\w.\-]+ = |(ENTRY )?%?[\w.\-]+ .*\{$|\}($|, exec)")
HOST, DEVICE = 5, 0  # memory spaces of a layout; any other is on the chip


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result. `space`: its memory space; DEVICE, HOST, or one on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = DEVICE

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.size * width(self.dtype) / 8


def width(dtype: str) -> int:
    """Bits of a number of this type."""
    return WIDTHS[dtype] if dtype in WIDTHS else int(re.search(r"\d+", dtype)[0])


@dataclass(frozen=True)
class Instruction:
    """`%name = result opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str  # the text between the brackets
    attributes: str

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def called(self, role: str) -> str | None:
        """The computation named by an attribute (`calls`, `body`, `condition`, `to_apply`); None without it."""
        match = re.search(rf"\b{role}=\{{?%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    @cached_property
    def config(self) -> dict:
        """The backend_config that the compiler attached."""
        start = self.attributes.find("backend_config={")
        return json.JSONDecoder().raw_decode(self.attributes, start + 15)[0] if start >= 0 else {}

    @property
    def cycles(self) -> int | None:
        """The cycles that the compiler's cost model gives this instruction; None where it gives none."""
        cycles = self.config.get("window_config", {}).get("estimated_cycles")
        return None if cycles in (None, "-1") else int(cycles)


@dataclass(frozen=True)
class Program:
    """A program: computations by name, each with its instructions in the order they run. It starts at `entry`."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions inside a fusion or an asynchronous call, and inside what those call."""
        name = (
            instruction.called("calls") or instruction.called("to_apply") or instruction.called("called_computations")
        )
        for inner in self.computations.get(name or "", {}).values():
            yield inner
            yield from self.inside(inner)

    def root(self, computation: str) -> Instruction:
        return list(self.computations[computation].values())[-1]


def read(text: str) -> Program:
    """Parses a program."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, computation = "", None
    for line in lines(text):
        if started := COMPUTATION.match(line):
            computation = computations.setdefault(started[2], {})
            entry = started[2] if started[1] else entry
        elif computation is not None and ASSIGNMENT.match(line):
            parsed = parse_instruction(line)
            computation[parsed.name] = parsed
    return Program(computations, entry)


def lines(text: str) -> Iterator[str]:
    """The lines of a program, those joined that a string inside breaks."""
    whole = ""
    for line in text.splitlines():
        starts = START.match(line)
        if starts and whole:
            yield whole.strip()
            whole = ""
        whole += line
    yield whole.strip()


def parse_instruction(line: str) -> Instruction:
    name = ASSIGNMENT.match(line)
    result, rest = shape_and_rest(line[name.end() :])
    opcode, _, rest = rest.partition("(")
    inside, attributes = split_at_bracket(rest)
    return Instruction(
        name[2],
        tuple(parse_array(match) for match in ARRAY.finditer(result)),
        opcode.strip(),
        tuple(re.findall(r"(?:^|[%\s])([A-Za-z_][\w.\-]*)(?=,|$)", inside)),
        inside,
        attributes,
    )


def shape_and_rest(text: str) -> tuple[str, str]:
    """Splits the text behind `=` into the result's type and the rest. A tuple's type is in brackets."""
    if not text.startswith("("):
        result, _, rest = text.partition(" ")
        return result, rest
    inside, rest = split_at_bracket(text[1:])
    return inside, rest.lstrip()


def split_at_bracket(text: str) -> tuple[str, str]:
    """Splits a text at the bracket that closes one opened just before it."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return text[: match.start()], text[match.end() :]
    return text, ""


def parse_array(match: re.Match) -> Array:
    dims = tuple(int(size) for size in match[2].split(",") if size)
    space = re.search(r"S\((\d+)\)", match[3] or "")
    return Array(match[1], dims, int(space[1]) if space else DEVICE)


def trip_count(program: Program, caller: dict[str, Instruction], loop: Instruction) -> int | None:
    """How often a `while` loop runs: from the start of its counter to the bound in its condition, by 1.

    None where one of these is no constant.
    """
    known = loop.config.get("known_trip_count", {}).get("n")
    if known:
        return int(known)
    condition = program.computations[loop.called("condition")]
    compare = program.root(loop.called("condition"))
    sides = compare.operands
    if compare.opcode == "fusion":  # parameters in the order of the fusion's operands
        inner = program.computations[compare.called("calls")]
        compare = program.root(compare.called("calls"))
        sides = [
            sides[int(inner[side].literal)] if inner[side].opcode == "parameter" else side for side in compare.operands
        ]
        condition = condition | inner
    initial = caller[loop.operands[0]]

    def value(name: str) -> int | None:
        origin = condition[source(condition, name)]
        if origin.opcode == "constant":
            return int(origin.literal)
        if origin.opcode == "get-tuple-element" and initial.opcode == "tuple":
            return constant(caller, initial.operands[tuple_index(origin)])
        return None

    if compare.opcode != "compare":
        return None
    first, last = (value(side) for side in sides)
    if "direction=LT" not in compare.attributes or first is None or last is None:
        return None
    return last - first


def tuple_index(element: Instruction) -> int:
    """Which element of a tuple a get-tuple-element takes."""
    return int(re.search(r"index=(\d+)", element.attributes)[1])


def source(computation: dict[str, Instruction], name: str) -> str:
    """The name of the value that `name` is a copy or a conversion of, or is with a sharding (in traced programs)."""
    copy = computation[name]
    same = copy.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start")
    same = same or (copy.opcode == "custom-call" and 'custom_call_target="Sharding"' in copy.attributes)
    return source(computation, copy.operands[0]) if same and copy.operands else name


def constant(computation: dict[str, Instruction], name: str) -> int | None:
    """The integer that a value is; None where it is no constant."""
    origin = computation[source(computation, name)]
    return int(origin.literal) if origin.opcode == "constant" and origin.literal.lstrip("-").isdigit() else None


def groups(collective: Instruction) -> np.ndarray | None:
    """The devices that a collective joins: int [groups, devices]. None: all with all."""
    text = collective.attributes
    if match := re.search(r"replica_groups=\{(\{[0-9,{}]*\})\}", text):
        return np.array([[int(d) for d in group.split(",")] for group in re.findall(r"\{([0-9,]+)\}", match[1])])
    if match := re.search(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", text):
        shape, dims, order = ([int(n) for n in part.split(",")] if part else None for part in match.groups())
        ids = np.arange(math.prod(dims)).reshape(dims)
        return (ids if order is None else ids.transpose(order)).reshape(shape)
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        over = re.findall(r"'(\w+)'", match[2])
        ids = np.moveaxis(
            np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values())),
            [list(sizes).index(name) for name in over],
            range(-len(over), 0),
        )
        return ids.reshape(-1, math.prod(sizes[name] for name in over))
    if match := re.search(r"source_target_pairs=\{(\{[0-9,{}]*\})\}", text):
        return np.array([[int(d) for d in pair.split(",")] for pair in re.findall(r"\{([0-9,]+)\}", match[1])])
    return None
