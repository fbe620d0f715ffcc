"""Looks for a watermark in a text: run.watermark of launch/api.py. It takes a tokenizer, and no model."""

from __future__ import annotations

from data.errors import DataError
from model.decode.chain import read_part
from model.decode.links.watermark import Watermark, detect_watermark


def find_watermark(text: str, tokenizer, key: int, gamma: float) -> dict:
    """What a text shows of the watermark of a key: the fields of model.decode.links.watermark.Detection.

    Raises SamplerError for a key or a gamma that the sampler refuses, DataError for a text of fewer than two tokens.
    """
    link = read_part("watermark", "watermark", Watermark, {"key": key, "gamma": gamma})
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens; a watermark shows in some tens of them: give a longer text")
    return detect_watermark(ids, link.key, link.gamma).to_json()
