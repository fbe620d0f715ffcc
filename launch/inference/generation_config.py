"""What an imported generation_config.json asks of generation, as far as the sampler chain has a part for it.

launch/inference/checkpoint.py takes a checkpoint's defaults from here; `skald import` says what is applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from model.decode.chain import KINDS, SamplerError, format_chain, parse_chain
from model.decode.parameters import parameters
from model.hf.config_reader import ConfigReader, HuggingFaceError

DEFAULT_TOP_K = 50  # transformers 5 cuts to as many where a config names none
# What says nothing of the text that is written.
INERT = frozenset({
    "_from_model_config", "assistant_confidence_threshold", "assistant_lookbehind", "bos_token_id",
    "cache_implementation", "decoder_start_token_id", "disable_compile", "is_assistant", "low_memory",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "remove_invalid_values", "renormalize_logits",
    "return_dict_in_generate", "target_lookbehind", "transformers_version", "use_cache",
})  # fmt: skip
# Values with which a key that has no part in a chain asks for nothing.
NEUTRAL = {
    "diversity_penalty": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1, "guidance_scale": 1,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "repetition_penalty": 1, "token_healing": False,
}  # fmt: skip
BEAMS = ("num_beams", "length_penalty", "early_stopping")


class Ids(NamedTuple):
    """The ids that a model may write, below `vocab_size`, and those of them that end a text."""

    vocab_size: int
    ends: Sequence[int]


class Key(NamedTuple):
    """A key that becomes a part of a chain. `read`: its value for the part's first parameter, None for no part."""

    part: str
    read: Callable[[ConfigReader, str, Ids], Any]


def number(neutral: Callable[[float], bool]) -> Callable:
    """Reads a number; `neutral`: whether it asks for nothing."""

    def read(reader: ConfigReader, key: str, ids: Ids) -> float | None:
        value = reader.number(key, null=None)
        return None if value is None or neutral(value) else value

    return read


def count(default: int) -> Callable:
    """Reads a whole number, of which 0 asks for nothing."""
    return lambda reader, key, ids: reader.integer(key, null=default, least=0) or None


def phrases(reader: ConfigReader, key: str, ids: Ids) -> list[list[int]] | None:
    """Phrases of ids that the model may write; but no end of a text by itself, which transformers leaves out, too."""
    value = reader.list(key, null=[])
    if not all(
        isinstance(phrase, list) and phrase and all(type(i) is int and i >= 0 for i in phrase) for phrase in value
    ):
        reader.refuse(f"{key} must be a list of lists of ids, not {value!r}")
    return [p for p in value if max(p) < ids.vocab_size and not (len(p) == 1 and p[0] in ids.ends)] or None


def single_ids(reader: ConfigReader, key: str, ids: Ids) -> list[list[int]] | None:
    """Ids that the model may write, each a phrase."""
    value = reader.list(key, null=[])
    if not all(type(id_) is int and id_ >= 0 for id_ in value):
        reader.refuse(f"{key} must be a list of ids, not {value!r}")
    return [[id_] for id_ in value if id_ < ids.vocab_size] or None


def biases(reader: ConfigReader, key: str, ids: Ids) -> list[list] | None:
    """Pairs of phrases and amounts."""
    value = reader.list(key, null=[])
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and pair[0] for pair in value):
        reader.refuse(f"{key} must be a list of pairs, as [[[10, 45], -2.0]], not {value!r}")
    return [pair for pair in value if all(type(i) is int and i < ids.vocab_size for i in pair[0])] or None


def texts(reader: ConfigReader, key: str, ids: Ids) -> list[str] | None:
    value = reader.typed(key, (str, list), "a text or a list of them", None)
    return [value] if isinstance(value, str) else value or None


# In the order in which transformers 5 applies them: what changes logits always, what does so where do_sample is true.
PROCESSORS = {
    "sequence_bias": Key("logit_bias", biases),
    "repetition_penalty": Key("repetition_penalty", number(lambda penalty: penalty == 1)),
    "no_repeat_ngram_size": Key("no_repeat_ngram", count(0)),
    "bad_words_ids": Key("banned_words", phrases),
    "min_new_tokens": Key("min_length", count(0)),
    "suppress_tokens": Key("banned_words", single_ids),
}
SAMPLING = {
    "temperature": Key("temperature", number(lambda temperature: temperature == 1)),
    "top_k": Key("top_k", count(DEFAULT_TOP_K)),
    "top_p": Key("top_p", number(lambda p: p >= 1)),
    "min_p": Key("min_p", number(lambda p: p == 0)),
    "typical_p": Key("typical", number(lambda p: p >= 1)),
    "epsilon_cutoff": Key("epsilon", number(lambda epsilon: not 0 < epsilon < 1)),
    "eta_cutoff": Key("eta", number(lambda epsilon: not 0 < epsilon < 1)),
}
ENDS = {"stop_strings": Key("stop", texts)}  # transformers keeps the stop text; here a text ends before it


def sampler(config: dict, ends: Sequence[int] = (), vocab_size: int = 2**31) -> str:
    """The chain that a config asks for, in transformers' order, of those parts that chains have here.

    Raises HuggingFaceError where a value is of another type, or out of range.
    """
    reader, ids = config_reader(config), Ids(vocab_size, ends)
    sampling = reader.flag("do_sample", null=False)
    keys = PROCESSORS | (SAMPLING if sampling else {})
    parts = [*chain_parts(reader, keys, ids), *strategy(reader, sampling), *chain_parts(reader, ENDS, ids)]
    try:
        return format_chain(parse_chain(json.dumps(parts)))
    except SamplerError as error:
        raise HuggingFaceError(f"generation_config.json: {error}") from None


def config_reader(config: dict) -> ConfigReader:
    keys = ("do_sample", "max_new_tokens", "penalty_alpha", *BEAMS, *PROCESSORS, *SAMPLING, *ENDS)
    return ConfigReader(config, dict.fromkeys(keys), "generation_config.json")


def chain_parts(reader: ConfigReader, keys: dict[str, Key], ids: Ids) -> list[dict]:
    """The parts of a chain in its canonical form that some keys ask for."""
    parts = []
    for name, key in keys.items():
        value = key.read(reader, name, ids)
        if value is not None and key.part in KINDS:
            parts.append({"name": key.part, next(iter(parameters(KINDS[key.part]))): value})
    return parts


def strategy(reader: ConfigReader, sampling: bool) -> list[dict]:
    """Where there are no draws, beam search if there are beams, else contrastive search if there is a penalty, else
    greedy; else nothing, which draws a token."""
    width = reader.integer("num_beams", null=1)
    if sampling:
        return []
    if width == 1:
        candidates, alpha = reader.integer("top_k", null=DEFAULT_TOP_K), reader.number("penalty_alpha", null=0)
        if candidates > 1 and alpha > 0:
            return [{"name": "contrastive_search", "k": candidates, "alpha": alpha}]
        return [{"name": "greedy"}]
    early = reader.typed("early_stopping", (bool, str), "true, false or never", False)
    penalty = reader.number("length_penalty", null=1.0)
    return [{"name": "beam", "width": width, "length_penalty": penalty, "early_stopping": early}]


def max_new_tokens(config: dict) -> int | None:
    """The new tokens that a config allows a text, where it says so; for who asks for no other number."""
    return config_reader(config).integer("max_new_tokens", null=None)


def end_ids(config: dict | None, model_config: dict, vocab_size: int) -> list[int]:
    """All ids that end a text: the generation config's, where there is none config.json's. Ids that the vocabulary does
    not have are left out. Raises HuggingFaceError where they are no numbers."""
    value = (model_config if config is None else config).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(id_, int) for id_ in ids):
        raise HuggingFaceError(f"eos_token_id must be a whole number or a list of them, not {value!r}")
    return [id_ for id_ in ids if 0 <= id_ < vocab_size]


def describe(config: dict, ends: Sequence[int], vocab_size: int) -> str:
    """A line that says which keys of a generation_config.json are applied here, and which are not."""
    chain = sampler(config, ends, vocab_size)
    keys = [key for key, value in config.items() if value is not None and key not in INERT]
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(effect(config, key, ends, chain), []).append(f"{key}={config[key]!r}")
    order = ("applied", "without effect, as do_sample is not true", "without effect, as num_beams is 1", "not applied")
    shown = "".join(f"; {what}: {', '.join(groups[what])}" for what in order if what in groups)
    line = f"generation_config.json: text is drawn with {chain or 'the model as it is'} by default{shown}"
    return " ".join(line.split())


def effect(config: dict, key: str, ends: Sequence[int], chain: str) -> str:
    """What a key of a config whose chain is this comes to, as `describe` says it; "" for what nobody need be told."""
    entry = (PROCESSORS | SAMPLING | ENDS).get(key)
    if config.get("penalty_alpha") and key in ("penalty_alpha", "top_k") and "contrastive_search" in chain:
        return "applied"
    if key in SAMPLING and not config.get("do_sample"):
        return "without effect, as do_sample is not true"
    if key in BEAMS:
        beams, drawn = (config.get("num_beams") or 1) > 1, bool(config.get("do_sample"))
        if beams:
            return "not applied" if drawn else "applied"
        return "" if key == "num_beams" else "without effect, as num_beams is 1"
    if key in ("do_sample", "max_new_tokens") or (key == "eos_token_id" and ends) or (entry and entry.part in KINDS):
        return "applied"
    return "" if key in NEUTRAL and config[key] == NEUTRAL[key] else "not applied"
