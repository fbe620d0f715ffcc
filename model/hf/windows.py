"""Kinds of layers in a config.json: which attend to a window of tokens, and which to all. Families of model/hf with
both use it."""

from __future__ import annotations

from collections.abc import Callable

from model import config as c
from model.hf.config_reader import ConfigReader

FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(config: ConfigReader, window: int | None, is_sliding: Callable[[int], bool]) -> list[int | None]:
    """The window of each layer, None where it attends to all. `is_sliding`: of a layer's number, for configs that don't
    list the kinds of layers."""
    layers = config.integer("num_hidden_layers")
    kinds = config.list("layer_types", null=None) or [
        SLIDING if is_sliding(number) else FULL for number in range(layers)
    ]
    if len(kinds) != layers:
        config.refuse(f"layer_types has {len(kinds)} entries for num_hidden_layers={layers}")
    unknown = sorted({str(kind) for kind in kinds} - {FULL, SLIDING})
    if unknown:
        config.refuse(f"layer_types: {unknown[0]!r} is not built here; {FULL}, {SLIDING} are")
    if SLIDING in kinds and window is None:
        config.refuse(f"layer_types has {SLIDING} layers, but there is no sliding_window")
    return [window if kind == SLIDING else None for kind in kinds]


def write_windows(model: c.Model) -> dict:
    """The kinds of layers, and the window of the first that has one."""
    windows = [block.mixer.window for block in c.blocks(model)]
    return {
        "layer_types": [SLIDING if window else FULL for window in windows],
        "sliding_window": next((window for window in windows if window), None),
    }
