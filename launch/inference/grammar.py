"""Matchers for constrained decoding: llguidance compiles a grammar to masks over a tokenizer's bytes.

launch/inference/text.py gives `new_matcher` to the decoder (model/decode/constraint.py), which knows neither.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.inference.json_schema import grammar_schema, one_line
from launch.inference.regular_expression import PatternError, check_pattern
from model.decode.chain import Chain, SamplerError, format_chain
from model.decode.constraint import find_grammar
from model.decode.links.constraint import Grammar, JsonSchema, Regex, pack
from train.run import RunError

# Forced text may be written in any tokens, not in the tokenizer's own alone: what is drawn follows the model.
HEADER = '%llguidance {"no_forcing": true}\n'
# No \u in strings: a name written with it would pass as another name. White space is a space, or a line break with
# what indents the next line: models dwell on more.
JSON_OPTIONS = {"json_allowed_escapes": 'nrbtf\\"', "whitespace_pattern": r" |\n(?: {0,16}|\t{0,8})"}


class TokenBytes:
    """A tokenizer as the library asks for it: bytes by id, and one more id that ends a text and is never drawn."""

    bos_token_id = None

    def __init__(self, token_bytes: Sequence[bytes | None]):
        self.eos_token_id = len(token_bytes)
        self.tokens = [token or f"<{id_}>".encode() for id_, token in enumerate(token_bytes)] + [b"<end>"]
        self.special_token_ids = [id_ for id_, token in enumerate([*token_bytes, None]) if not token]

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("nothing is forced, so nothing is encoded")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer for grammars. `library`: its LLTokenizer; the masks are uint32 [W]."""

    library: Any
    text_mask: np.ndarray  # tokens that texts are written with
    space_mask: np.ndarray  # those of them that begin with a space
    space_id: int | None  # the longest of these: that of a byte alone is never left out by a decoder


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer, made once in a process: it takes up to a second."""
    import llguidance  # optional: only grammars need it

    token_bytes = tokenizer.token_bytes()
    is_text_V = np.array([bool(token) for token in token_bytes])
    is_space_V = np.array([bool(token) and token.startswith(b" ") for token in token_bytes])
    if not is_text_V.any():
        raise SamplerError("a grammar needs a tokenizer whose tokens are pieces of text, and this one's are not")
    library = llguidance.LLTokenizer(llguidance.TokenizerWrapper(TokenBytes(token_bytes)))
    space_id = max(map(int, np.flatnonzero(is_space_V)), key=lambda id_: len(token_bytes[id_]), default=None)
    return Vocabulary(library, pack(is_text_V), pack(is_space_V), space_id)


class TokenMatcher:
    """A matcher of model/decode/constraint.py. `matcher`: the library's, at the beginning of its text."""

    def __init__(self, matcher, vocabulary: Vocabulary, stop_ids: Sequence[int], first_space: bool):
        self.matcher, self.vocabulary = matcher, vocabulary
        self.stop_mask = np.zeros_like(vocabulary.text_mask)
        for id_ in stop_ids:
            self.stop_mask[id_ // 32] |= np.uint32(1 << id_ % 32)
        self.next_mask = self.compute_mask()
        if not first_space:
            self.next_mask &= ~vocabulary.space_mask

    def compute_mask(self) -> np.ndarray:
        """The tokens of text that may come next. Raises RunError where the library's limits are reached."""
        words = np.frombuffer(self.matcher.compute_bitmask(), np.uint32)[: len(self.stop_mask)]
        if self.matcher.is_error():
            if self.matcher.get_error().startswith("NoExtensionBias"):  # no token begins what must come
                return np.zeros_like(self.stop_mask)
            raise RunError(f"the grammar can't be followed ({one_line(self.matcher.get_error())}); write a simpler one")
        return words & self.vocabulary.text_mask & ~self.stop_mask

    def mask(self) -> np.ndarray:
        return self.next_mask | self.stop_mask if self.matcher.is_accepting() else self.next_mask

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)
        self.next_mask = self.compute_mask()

    @property
    def finished(self) -> bool:
        return self.matcher.is_accepting() and not self.next_mask.any()


def new_matcher(tokenizer, grammar: Grammar, prompt: Sequence[int], stop_ids: Sequence[int]) -> TokenMatcher:
    """The matcher of a text behind a prompt. Raises SamplerError where the grammar, or the tokenizer, does not do."""
    matcher = compile_grammar(tokenizer, grammar_text(grammar)).deep_copy()
    words = vocabulary(tokenizer)
    stops = [id_ for id_ in stop_ids if 0 <= id_ < tokenizer.vocab_size]
    return TokenMatcher(matcher, words, stops, keeps_space(tokenizer, list(prompt), words.space_id))


def check_grammar(tokenizer, chain: Chain) -> None:
    """Raises SamplerError where a chain has a grammar that can't be obeyed with a tokenizer."""
    grammar = find_grammar(chain)
    if grammar is not None:
        compile_grammar(tokenizer, grammar_text(grammar))


def keeps_space(tokenizer, prompt: list[int], space_id: int | None) -> bool:
    """Whether a space behind the prompt is a part of the text: some tokenizers leave out the first one they decode."""
    return space_id is None or tokenizer.decode([*prompt, space_id]).startswith(tokenizer.decode(prompt) + " ")


@functools.lru_cache(maxsize=64)
def compile_grammar(tokenizer, text: str):
    """A grammar's matcher at its beginning, to be copied; compiled once in a process. Raises SamplerError."""
    import llguidance  # optional: only grammars need it

    limits = llguidance.LLParserLimits(verbose_errors=False)
    matcher = llguidance.LLMatcher(vocabulary(tokenizer).library, text, log_level=0, limits=limits)
    if matcher.is_error():
        raise SamplerError(f"the grammar can't be compiled: {one_line(matcher.get_error())}")
    return matcher


def grammar_text(grammar: Grammar) -> str:
    """A grammar in the library's own language. Raises SamplerError where it is not supported."""
    if importlib.util.find_spec("llguidance") is None or importlib.util.find_spec("jsonschema") is None:
        name = format_chain(Chain((grammar,))).partition("=")[0]
        raise SamplerError(
            f"{name}: the packages that compile grammars are not installed; pip install 'skald[grammar]'"
        )
    if isinstance(grammar, Regex):
        return HEADER + f"start: /{regular_expression(grammar)}/"
    schema = grammar_schema(grammar if isinstance(grammar, JsonSchema) else JsonSchema({}))
    if schema is False:
        raise SamplerError("json_schema: the schema false allows no value; write one that allows some")
    return HEADER + "start: %json " + json.dumps({**({} if schema is True else schema), "x-guidance": JSON_OPTIONS})


def regular_expression(grammar: Regex) -> str:
    """A pattern as it stands between slashes in the library's language."""
    import llguidance  # optional: only grammars need it

    try:
        check_pattern(grammar.pattern)
    except PatternError as error:
        raise SamplerError(f"regex: {error}") from None
    return llguidance.regex_to_lark(grammar.pattern, "dws")
