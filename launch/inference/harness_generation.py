"""A task's `generation_kwargs` as requests of ours, resolved as the Hugging Face model of lm-evaluation-harness does.

launch/inference/harness.py calls it.
"""

from __future__ import annotations

from typing import Any

from launch.inference import generation_config
from launch.inference.checkpoint import DescribedCheckpoint
from launch.inference.generation_config import NEUTRAL, PROCESSORS, SAMPLING
from launch.inference.request import TextRequest
from model.hf.config_reader import HuggingFaceError
from train.fields import ConfigError

NEW_TOKENS = 256  # of a text, where its task says no number: that of the package's own models
NAMES_OF_LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first counts
APPLIED = (*SAMPLING, *PROCESSORS)
EXPORTED = {"top_k": 0}  # the generation config with which a checkpoint of ours is exported: all tokens are drawn from


def text_request(run: DescribedCheckpoint, prompt: str, options: dict, seed: int = 0) -> TextRequest:
    """What a task's options ask for behind a prompt. Raises ConfigError."""
    options = {name: value for name, value in options.items() if value is not None}
    until = options.pop("until", [])
    lengths = [options.pop(name) for name in NAMES_OF_LENGTH if name in options]
    stops = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return TextRequest(prompt, sampler(run, options), int(lengths[0]) if lengths else NEW_TOKENS, seed, stop=stops)


def sampler(run: DescribedCheckpoint, options: dict) -> str:
    """The chain of a task's options. As in the package's Hugging Face model (lm_eval 0.4.13: normalize_gen_kwargs,
    HFLM._model_generate) tokens are drawn where `do_sample` is true, or is left out and `temperature` is above 0, and
    what the options leave open is as the checkpoint's generation_config.json says. Raises ConfigError."""
    for name, value in options.items():
        if name not in ("do_sample", *APPLIED) and (name not in NEUTRAL or value != NEUTRAL[name]):
            known = ", ".join(["until", "do_sample", *APPLIED, *NAMES_OF_LENGTH])
            raise ConfigError(f"generation_kwargs: no {name!r} with {value!r} here; there are {known}")
    temperature = number("temperature", options.get("temperature", 0.0))
    drawn = options.get("do_sample", temperature > 0)
    if drawn is True and temperature <= 0:
        raise ConfigError(
            "generation_kwargs: do_sample is true, and the temperature, 0 where none is named, is not above 0; write "
            "temperature: 1.0, or do_sample: false for the likeliest token"
        )
    own = (run.metadata["huggingface"] or {}).get("generation_config") or EXPORTED
    config = own | options | {"temperature": temperature, "do_sample": drawn}
    if drawn is False and not config.get("penalty_alpha"):
        config = {name: value for name, value in config.items() if name not in SAMPLING}
    try:
        return generation_config.sampler(config, run.stop_ids, run.tokenizer.vocab_size)
    except HuggingFaceError as error:
        reason = str(error).removeprefix("generation_config.json: ")
        raise ConfigError(f"generation_kwargs, over {run.name}'s generation_config.json: {reason}") from None


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"generation_kwargs: {name} is {value!r}; it takes a number") from None
