"""Rotary positions in a config.json, in the old and the new spelling. The families of model/hf read and write them.

Old: `rope_theta` beside `rope_scaling`, an object with `type` or `rope_type`. New: one object `rope_parameters`.
"""

from __future__ import annotations

from model import config as c
from model.hf.config_reader import ConfigReader, HuggingFaceError

# What a parameter is where it is absent, apart from those that the rest of the config says.
DEFAULTS = {"type": "default", "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None, "truncate": True}
INERT = {"type", "original_max_position_embeddings"}


def read_rope(config: ConfigReader) -> c.Rope:
    """The rotary positions that all layers of a config share."""
    defaults = parameter_defaults(config, "rope_theta")
    return agreed(config.object("rope_parameters", defaults), config.object("rope_scaling", defaults))


def parameter_defaults(config: ConfigReader, theta: str) -> dict:
    """What parameters are where they are absent; `theta` is the key that the base has outside them."""
    context = config.integer("max_position_embeddings")
    return DEFAULTS | {"rope_theta": config.number(theta), "original_max_position_embeddings": context}


def agreed(*objects: ConfigReader) -> c.Rope:
    """The rotary positions that all of these objects say that are there."""
    ropes = {read_parameters(parameters) for parameters in objects if parameters.given}
    if len(ropes) > 1:
        objects[0].refuse("says something else than rope_scaling; keep one of them")
    return ropes.pop() if ropes else read_parameters(objects[0])


def read_parameters(parameters: ConfigReader) -> c.Rope:
    read_scaling = parameters.choice("rope_type" if "rope_type" in parameters.given else "type", SCALINGS)
    parameters.expect("partial_rotary_factor", 1.0)
    rope = c.Rope(parameters.number("rope_theta"), read_scaling(parameters))
    parameters.refuse_unread(INERT)
    return rope


def linear(parameters: ConfigReader) -> c.LinearScaling:
    return c.LinearScaling(factor(parameters))


def llama3(parameters: ConfigReader) -> c.Llama3Scaling:
    low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
    if high <= low:
        parameters.refuse(f"high_freq_factor={high} must be above low_freq_factor={low}")
    return c.Llama3Scaling(factor(parameters), low, high, parameters.integer("original_max_position_embeddings"))


def yarn(parameters: ConfigReader) -> c.YarnScaling:
    return c.YarnScaling(
        factor(parameters),
        parameters.integer("original_max_position_embeddings"),
        parameters.number("beta_fast", null=32.0),
        parameters.number("beta_slow", null=1.0),
        parameters.number("attention_factor", null=None),
        parameters.flag("truncate"),
    )


def factor(parameters: ConfigReader) -> float:
    value = parameters.number("factor")
    if value < 1:
        parameters.refuse(f"factor must be at least 1, not {value}")
    return value


# Their name of a rotary scaling -> a function of its parameters to our config.
SCALINGS = {"default": lambda _: None, "linear": linear, "llama3": llama3, "yarn": yarn}


def write_rope(rope: c.Rope | None) -> dict:
    """The keys of a config that give these rotary positions to readers of the new and of the old spelling.

    A reader of the new one takes `rope_scaling` first where it is there, and the base from `rope_theta` beside it."""
    parameters = write_parameters(rope)
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"} if rope.scaling else None
    keys = {"rope_parameters": parameters, "rope_theta": rope.base}
    return keys | ({"rope_scaling": scaling} if scaling else {})


def write_parameters(rope: c.Rope | None) -> dict:
    """The object of rotary positions. Raises HuggingFaceError where there are none."""
    if rope is None:
        raise HuggingFaceError("attention without rotary positions")
    return {"rope_theta": rope.base} | write_scaling(rope.scaling)


def write_scaling(scaling) -> dict:
    match scaling:
        case c.LinearScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case c.Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency,
                "high_freq_factor": scaling.high_frequency,
                "original_max_position_embeddings": scaling.original_context,
            }
        case c.YarnScaling():
            given = {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
            return given | {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
    return {"rope_type": "default"}
