"""What an imported generation_config.json asks of generation, as far as the sampler chain has a link for it.

launch/inference/checkpoint.py takes a checkpoint's defaults from here; `skald import` says what is applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.decode.chain import SamplerError, format_chain, parse_chain
from model.hf.config_reader import ConfigReader, HuggingFaceError

DEFAULT_TOP_K = 50  # transformers 5 cuts to as many where a config names none
# What says nothing of the text that is written.
INERT = frozenset({
    "_from_model_config", "bos_token_id", "cache_implementation", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "return_dict_in_generate", "transformers_version", "use_cache",
})  # fmt: skip
SAMPLING = ("temperature", "top_k", "top_p")  # applied where do_sample is true


def sampler(config: dict) -> str:
    """The chain that a config asks for: greedy, or its temperature, top_k and top_p, in transformers' order.

    Raises HuggingFaceError where a value is of another type, or out of range.
    """
    reader = ConfigReader(config, dict.fromkeys(("do_sample", *SAMPLING)), "generation_config.json")
    if not reader.flag("do_sample", null=False):
        return "greedy"
    temperature, top_k = reader.number("temperature", null=1.0), reader.integer("top_k", null=DEFAULT_TOP_K, least=0)
    top_p = reader.number("top_p", null=1.0)
    links = {"temperature": (temperature, 1.0), "top_k": (top_k, 0), "top_p": (top_p, 1.0)}
    try:
        return format_chain(parse_chain(",".join(f"{k}={v}" for k, (v, neutral) in links.items() if v != neutral)))
    except SamplerError as error:
        raise HuggingFaceError(f"generation_config.json: {error}") from None


def end_ids(config: dict | None, model_config: dict, vocab_size: int) -> list[int]:
    """All ids that end a text: the generation config's, where there is none config.json's. Ids that the vocabulary does
    not have are left out. Raises HuggingFaceError where they are no numbers."""
    value = (model_config if config is None else config).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(id_, int) for id_ in ids):
        raise HuggingFaceError(f"eos_token_id must be a whole number or a list of them, not {value!r}")
    return [id_ for id_ in ids if 0 <= id_ < vocab_size]


def describe(config: dict, ends: Sequence[int]) -> str:
    """A line that says which keys of a generation_config.json are applied here, and which are not."""
    keys = {key: value for key, value in config.items() if value is not None and key not in INERT}
    applied = {"do_sample"} | ({"eos_token_id"} if ends else set())
    applied |= set(SAMPLING) if keys.get("do_sample") else set()
    groups = {
        "applied": [key for key in keys if key in applied],
        "without effect, as do_sample is not true": [key for key in keys if key in SAMPLING and key not in applied],
        "not applied": [key for key in keys if key not in applied and key not in SAMPLING],
    }
    shown = [f"{what}: {', '.join(f'{k}={keys[k]!r}' for k in names)}" for what, names in groups.items() if names]
    return f"generation_config.json: text is drawn with {sampler(config) or 'the model as it is'} by default" + "".join(
        f"; {text}" for text in shown
    )
