"""The sampler chain: where its logits come from, links in the order in which they are applied, the strategy that
chooses a token, and ends.

launch/ parses what people write (notation.py has the forms), draw.py runs the result.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any

import jax

from model.decode import notation
from model.decode.beam import Beam
from model.decode.compositions import Alone, Contrast, Guidance
from model.decode.contrastive import ContrastiveSearch
from model.decode.ends import End, MaxRepeats, Stop, StopTokens
from model.decode.links.constraint import Json, JsonSchema, MaxCopiedTokens, Regex
from model.decode.links.dry import DRY
from model.decode.links.entropy import Eta, TopH, Typical
from model.decode.links.link import Link
from model.decode.links.mirostat import Mirostat
from model.decode.links.ngrams import NoRepeatNGram
from model.decode.links.penalties import FrequencyPenalty, PresencePenalty, RepetitionPenalty
from model.decode.links.truncation import Epsilon, MinP, Temperature, TopK, TopNSigma, TopP
from model.decode.links.watermark import Watermark
from model.decode.links.words import BannedWords, LogitBias, MinLength
from model.decode.links.xtc import XTC
from model.decode.parameters import Biases, Phrases, parameters, stack_rows, static_values
from model.decode.sources import Composition
from model.decode.strategies import BestOf, Greedy, Sample, Strategy

SOURCES: dict[str, type] = {"guidance": Guidance, "contrast": Contrast}  # the first of a chain; without one, Alone
LINKS: dict[str, type] = {
    "temperature": Temperature,
    "top_k": TopK,
    "top_p": TopP,
    "min_p": MinP,
    "typical": Typical,
    "epsilon": Epsilon,
    "eta": Eta,
    "repetition_penalty": RepetitionPenalty,
    "presence_penalty": PresencePenalty,
    "frequency_penalty": FrequencyPenalty,
    "no_repeat_ngram": NoRepeatNGram,
    "logit_bias": LogitBias,
    "banned_words": BannedWords,
    "min_length": MinLength,
    "xtc": XTC,
    "dry": DRY,
    "top_nsigma": TopNSigma,
    "regex": Regex,
    "json_schema": JsonSchema,
    "json": Json,
    "max_copied_tokens": MaxCopiedTokens,
    "watermark": Watermark,
    "mirostat": Mirostat,
    "top_h": TopH,
}
STRATEGIES: dict[str, type] = {  # behind the links; without one, Sample
    "greedy": Greedy,
    "best_of": BestOf,
    "beam": Beam,
    "contrastive_search": ContrastiveSearch,
}
ENDS: dict[str, type] = {"stop": Stop, "stop_tokens": StopTokens, "max_repeats": MaxRepeats}
KINDS = SOURCES | LINKS | STRATEGIES | ENDS
NAMES = {kind: name for name, kind in KINDS.items()}


class SamplerError(ValueError):
    """A chain can't be parsed; the message is one line with the link, the value and what works."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """A sampler chain: where its logits come from, links, applied in order, the strategy that chooses a token; and what
    ends a text.

    A person's chain holds numbers and words. A batch's (`stack_chains`) holds arrays with a row for each text, and is a
    pytree: its links' classes and static parameters are its structure, all else is data of one program. It has no ends.
    """

    links: tuple[Link, ...] = ()
    strategy: Strategy = dataclasses.field(default_factory=Sample)
    ends: tuple[End, ...] = ()
    source: Composition = dataclasses.field(default_factory=Alone)

    @property
    def kinds(self) -> tuple:
        """What is static: chains of equal kinds share a program and may share a batch."""
        return tuple(static_values(part) for part in (self.source, *self.links, self.strategy))

    @property
    def stop_texts(self) -> list[str]:
        """The texts that end a text, by its ends."""
        return [text for end in self.ends for text in end.texts]

    @property
    def stop_tokens(self) -> list[int]:
        """The ids that end a text, by its ends."""
        return [token for end in self.ends for token in end.tokens]

    def __str__(self) -> str:
        return format_chain(self)


def stack_chains(chains: Sequence[Chain]) -> Chain:
    """The chains of many rows, all of the same kinds, as one of arrays with an axis B in front; without their ends.

    Raises SamplerError where words of a chain have no ids yet.
    """
    for chain in chains:
        check_words(chain)
    links = tuple(stack_rows(parts) for parts in zip(*(chain.links for chain in chains), strict=True))
    strategy, source = (stack_rows([getattr(chain, name) for chain in chains]) for name in ("strategy", "source"))
    return Chain(links, strategy, source=source)


def check_words(chain: Chain) -> None:
    """Raises SamplerError where a link has words whose ids no tokenizer gave it yet."""
    for part in (chain.source, *chain.links, chain.strategy):
        for name, kind in parameters(type(part)).items():
            texts = kind.texts(getattr(part, name)) if isinstance(kind, Biases | Phrases) else []
            if texts:
                raise SamplerError(
                    f"sampler {format_chain(chain)!r}: {NAMES[type(part)]} holds {texts[0]!r}, and the model knows ids "
                    "alone; give it ids, or have a tokenizer resolve the words first"
                )


def parse_chain(sampler: str) -> Chain:
    """Parses a chain; the empty text samples from the model's own distribution. Raises SamplerError."""
    try:
        items = notation.read(sampler)
    except notation.NotationError as error:
        raise SamplerError(f"sampler {sampler!r}: {error}") from None
    source, items = read_source(sampler, items)
    links, strategy, strategy_name, ends = [], Sample(), None, []
    for name, values in items:
        if name in ENDS:
            ends.append(read_part(sampler, name, ENDS[name], values))
        elif strategy_name is not None:
            raise SamplerError(
                f"sampler {sampler!r}: {write_part(name, values)!r} after {strategy_name}; "
                f"{strategy_name} must come last"
            )
        elif name in SOURCES:
            raise SamplerError(f"sampler {sampler!r}: {name} must come first, and only one of {', '.join(SOURCES)} may")
        elif name in LINKS:
            links.append(read_part(sampler, name, LINKS[name], values))
        elif name in STRATEGIES:
            strategy, strategy_name = read_part(sampler, name, STRATEGIES[name], values), name
        else:
            raise SamplerError(f"sampler {sampler!r}: {unknown_name_message(name)}")
    return Chain(tuple(links), strategy, tuple(ends), source)


def read_source(sampler: str, items: list) -> tuple[Composition, list]:
    """The source that a chain begins with, if it names one, and the other parts. Raises SamplerError."""
    if not items or items[0][0] not in SOURCES:
        return Alone(), items
    (name, values), *rest = items
    return read_part(sampler, name, SOURCES[name], values), rest


def read_part(sampler: str, name: str, kind: type, values: dict[str | None, Any]) -> Any:
    """A link, a strategy or an end of a class, from what a person wrote. Raises SamplerError."""
    kinds = parameters(kind)
    if not kinds and values:
        wrong = next(iter(values.values()))
        raise SamplerError(f"sampler {sampler!r}: {name} takes no value and got {wrong!r}; write {name}")
    first = next(iter(kinds), None)
    named = {first if key is notation.VALUE else key: value for key, value in values.items()}
    if unknown := [key for key in named if key not in kinds]:
        raise SamplerError(
            f"sampler {sampler!r}: {name} has no parameter {unknown[0]!r}; its parameters are {', '.join(kinds)}"
        )
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name in named:
            fields[field.name] = read_parameter(sampler, name, field.name, kinds, named[field.name])
        elif field.default is dataclasses.MISSING:
            read_parameter(sampler, name, field.name, kinds, "")  # raises: what is missing is nothing
            raise SamplerError(f"sampler {sampler!r}: {name} lacks {field.name}; {kinds[field.name].expected}")
    try:
        return kind(**fields)
    except ValueError as error:  # parameters that do not fit each other
        raise SamplerError(f"sampler {sampler!r}: {name}: {error}") from None


def read_parameter(sampler: str, name: str, field: str, kinds: dict, value: Any) -> Any:
    """One parameter, checked. Raises SamplerError."""
    try:
        return kinds[field].read(value)
    except (ValueError, TypeError, OverflowError):
        what = name if len(kinds) == 1 else f"{field} of {name}"
        shown = "nothing" if value == "" else value if isinstance(value, str) else json.dumps(value)
        raise SamplerError(f"sampler {sampler!r}: {what} is {shown}; it takes {kinds[field].expected}") from None


def chain_values(part: Any) -> dict[str, Any]:
    """The parameters of a link, a strategy or an end as JSON values, without those at their defaults."""
    fields = [field for field in dataclasses.fields(part) if getattr(part, field.name) != field.default]
    return {field.name: field.metadata["parameter"].write(getattr(part, field.name)) for field in fields}


def named_parts(chain: Chain) -> list[Any]:
    """The parts of a chain in order, its ends last; without a source and a strategy that need no name."""
    return [part for part in (chain.source, *chain.links, chain.strategy, *chain.ends) if type(part) in NAMES]


def format_chain(chain: Chain) -> str:
    """The shorthand of a chain, which `parse_chain` reads back as the same chain."""
    return ",".join(
        notation.write(NAMES[type(part)], chain_values(part), next(iter(parameters(type(part))), None))
        for part in named_parts(chain)
    )


def chain_to_json(chain: Chain) -> list[dict[str, Any]]:
    """The canonical form of a chain; its text is one that `parse_chain` reads, too."""
    return [{"name": NAMES[type(part)], **chain_values(part)} for part in named_parts(chain)]


def write_part(name: str, values: dict[str | None, Any]) -> str:
    """What a person wrote, for an error message."""
    if notation.VALUE in values:
        return f"{name}={values[notation.VALUE]}"
    return notation.write(name, values, None)


def unknown_name_message(name: str) -> str:
    """The error message for a word that names no link."""
    names = list(KINDS)
    close = difflib.get_close_matches(name, names, n=1)
    return f"no link {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"links are {', '.join(names)}")
