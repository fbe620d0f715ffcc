"""The sampler chain as text: "temperature=0.8,top_k=50,top_p=0.95" or "greedy", in the order in which it is applied.

launch/ parses what users write; generate.py runs the result.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass

from model.decode.links import Link, Temperature, TopK, TopP
from model.decode.strategies import Greedy, Sample, Strategy

LINKS: dict[str, type] = {"temperature": Temperature, "top_k": TopK, "top_p": TopP}
STRATEGIES: dict[str, type] = {"greedy": Greedy}  # the last word of a chain; without one, Sample
EXPECTED = {
    "temperature": "a number from 1e-6 to 1e6, as temperature=0.8 (for the likeliest token alone write greedy)",
    "top_k": "a whole number of tokens from 1, as top_k=50",
    "top_p": "a probability above 0 and up to 1, as top_p=0.95",
}


class SamplerError(ValueError):
    """A chain can't be parsed; the message is one line with the link, the value and what works."""


@dataclass(frozen=True)
class Chain:
    """A sampler chain: links, applied in order, then the strategy that chooses a token."""

    links: tuple[Link, ...] = ()
    strategy: Strategy = dataclasses.field(default_factory=Sample)


def parse_chain(sampler: str) -> Chain:
    """Parses a chain; the empty text samples from the model's own distribution. Raises SamplerError."""
    links, strategy = [], None
    for word in sampler.split(",") if sampler.strip() else []:
        name, equals, value = (part.strip() for part in word.partition("="))
        if strategy is not None:
            raise SamplerError(f"sampler {sampler!r}: {word.strip()!r} after {strategy}; {strategy} must come last")
        if name in LINKS:
            links.append(LINKS[name](parse_value(sampler, name, value)))
        elif name not in STRATEGIES:
            raise SamplerError(f"sampler {sampler!r}: {unknown_link_message(name)}")
        elif equals:
            raise SamplerError(f"sampler {sampler!r}: {name} takes no value and got {value!r}; write {name}")
        else:
            strategy = name
    return Chain(tuple(links), STRATEGIES[strategy]() if strategy else Sample())


def format_chain(chain: Chain) -> str:
    """The canonical text of a chain, which `parse_chain` reads back as the same chain."""
    names = {kind: name for name, kind in (LINKS | STRATEGIES).items()}
    words = []
    for link in chain.links:
        (field,) = dataclasses.fields(link)
        words.append(f"{names[type(link)]}={repr(getattr(link, field.name)).removesuffix('.0')}")
    return ",".join(words + [names[kind] for kind in (type(chain.strategy),) if kind in names])


def parse_value(sampler: str, name: str, value: str) -> float | int:
    """A link's value as a number, checked. Raises SamplerError."""
    try:
        parsed = int(value) if name == "top_k" else float(value)
    except ValueError:
        parsed = math.nan
    valid = {"temperature": 1e-6 <= parsed <= 1e6, "top_k": 1 <= parsed < 2**31, "top_p": 0 < parsed <= 1}
    if not valid[name]:
        raise SamplerError(f"sampler {sampler!r}: {name} is {value or 'nothing'}; it takes {EXPECTED[name]}")
    return parsed


def unknown_link_message(name: str) -> str:
    """The error message for a word that names no link."""
    names = [*LINKS, *STRATEGIES]
    close = difflib.get_close_matches(name, names, n=1)
    return f"no link {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"links are {', '.join(names)}")
