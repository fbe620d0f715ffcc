"""A compiled program's text as computations and instructions, with the little that an estimate needs of each: sizes,
how often a loop turns, which devices a collective joins.

launch/plan/estimate.py walks it, launch/plan/products.py counts FLOPs. The text is what `compiled.as_text()` gives:
scheduled, one device's program.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTHS = {"pred": 8, "token": 0, "opaque": 0, "f8e4m3fn": 8, "f8e5m2": 8}  # bits; the others end in theirs
ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
MADE = re.compile(r"(ROOT )?%?([\w.\-]+) = ")  # a program before compilation has no % in it
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (\(.*)?\{$")
START = re.compile(r"  (ROOT )?%?[\w.\-]+ = |(ENTRY )?%?[\w.\-]+ .*\{$|\}($|, exec)")
HOST, DEVICE = 5, 0  # memory spaces of a layout; others are on the chip


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result. `space`: the memory it lies in; DEVICE, HOST, or one on the chip."""

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
    """Bits of a number."""
    return WIDTHS[dtype] if dtype in WIDTHS else int(re.search(r"\d+", dtype)[0])


@dataclass(frozen=True)
class Instruction:
    """`%name = result opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands between the brackets
    attributes: str

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def called(self, role: str) -> str | None:
        """The computation that an attribute (`calls`, `body`, `condition`, `to_apply`) names."""
        found = re.search(rf"\b{role}=\{{?%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @cached_property
    def config(self) -> dict:
        """The compiler's notes for its back end."""
        start = self.attributes.find("backend_config={")
        return json.JSONDecoder().raw_decode(self.attributes, start + 15)[0] if start >= 0 else {}

    @property
    def cycles(self) -> int | None:
        """What the compiler's cost model gives this one, in clock cycles; None where it says nothing."""
        found = self.config.get("window_config", {}).get("estimated_cycles")
        return None if found in (None, "-1") else int(found)


@dataclass(frozen=True)
class Program:
    """Computations by name, each its instructions in the order they run; `entry` names the first."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions of a fusion or an asynchronous call, and of what those call."""
        name = (
            instruction.called("calls") or instruction.called("to_apply") or instruction.called("called_computations")
        )
        for inner in self.computations.get(name or "", {}).values():
            yield inner
            yield from self.inside(inner)

    def root(self, computation: str) -> Instruction:
        return list(self.computations[computation].values())[-1]


def read(text: str) -> Program:
    """A program from its text."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, here = "", None
    for line in lines(text):
        if started := COMPUTATION.match(line):
            here = computations.setdefault(started[2], {})
            entry = started[2] if started[1] else entry
        elif here is not None and MADE.match(line):
            made = instruction(line)
            here[made.name] = made
    return Program(computations, entry)


def lines(text: str) -> Iterator[str]:
    """Lines, joined where a string inside goes over several."""
    whole = ""
    for line in text.splitlines():
        starts = START.match(line)
        if starts and whole:
            yield whole.strip()
            whole = ""
        whole += line
    yield whole.strip()


def instruction(line: str) -> Instruction:
    name = MADE.match(line)
    result, rest = shape_and_rest(line[name.end() :])
    opcode, _, rest = rest.partition("(")
    inside, attributes = split_at_bracket(rest)
    return Instruction(
        name[2],
        tuple(array(found) for found in ARRAY.finditer(result)),
        opcode.strip(),
        tuple(re.findall(r"(?:^|[%\s])([A-Za-z_][\w.\-]*)(?=,|$)", inside)),
        inside,
        attributes,
    )


def shape_and_rest(text: str) -> tuple[str, str]:
    """A result's type, a tuple's in brackets, and what follows it."""
    if not text.startswith("("):
        result, _, rest = text.partition(" ")
        return result, rest
    inside, rest = split_at_bracket(text[1:])
    return inside, rest.lstrip()


def split_at_bracket(text: str) -> tuple[str, str]:
    """What stands before the bracket that closes one opened just before, and what stands behind it."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return text[: found.start()], text[found.end() :]
    return text, ""


def array(found: re.Match) -> Array:
    dims = tuple(int(size) for size in found[2].split(",") if size)
    space = re.search(r"S\((\d+)\)", found[3] or "")
    return Array(found[1], dims, int(space[1]) if space else DEVICE)


def trip_count(program: Program, caller: dict[str, Instruction], loop: Instruction) -> int | None:
    """How often a `while` turns: from where its counter starts, to what its condition compares it with, by 1.

    None where those are no constants.
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
    given = caller[loop.operands[0]]

    def value(name: str) -> int | None:
        made = condition[source(condition, name)]
        if made.opcode == "constant":
            return int(made.literal)
        if made.opcode == "get-tuple-element" and given.opcode == "tuple":
            return constant(caller, given.operands[tuple_index(made)])
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
    """What a value is before it was only copied, converted, or given a sharding (as in programs that were traced)."""
    made = computation[name]
    same = made.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start")
    same = same or (made.opcode == "custom-call" and 'custom_call_target="Sharding"' in made.attributes)
    return source(computation, made.operands[0]) if same and made.operands else name


def constant(computation: dict[str, Instruction], name: str) -> int | None:
    made = computation[source(computation, name)]
    return int(made.literal) if made.opcode == "constant" and made.literal.lstrip("-").isdigit() else None


def groups(collective: Instruction) -> np.ndarray | None:
    """int [groups, devices]: who exchanges with whom, in any of the forms the text has; None: all with all."""
    text = collective.attributes
    if found := re.search(r"replica_groups=\{(\{[0-9,{}]*\})\}", text):
        return np.array([[int(d) for d in group.split(",")] for group in re.findall(r"\{([0-9,]+)\}", found[1])])
    if found := re.search(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", text):
        shape, dims, order = ([int(n) for n in part.split(",")] if part else None for part in found.groups())
        ids = np.arange(math.prod(dims)).reshape(dims)
        return (ids if order is None else ids.transpose(order)).reshape(shape)
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        over = re.findall(r"'(\w+)'", found[2])
        ids = np.moveaxis(
            np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values())),
            [list(sizes).index(name) for name in over],
            range(-len(over), 0),
        )
        return ids.reshape(-1, math.prod(sizes[name] for name in over))
    if found := re.search(r"source_target_pairs=\{(\{[0-9,{}]*\})\}", text):
        return np.array([[int(d) for d in pair.split(",")] for pair in re.findall(r"\{([0-9,]+)\}", found[1])])
    return None
