#!/usr/bin/env bash
# transformers 5.24.0 (CPython 3.11). In a config.json of before, `rope_scaling` says its kind under `type` or, later, under
# `rope_type`. Llama, Qwen, Mistral and others take both. Gemma 3 takes `rope_type` alone: with `type` the config loads
# without a warning, keeps the factor, and the kind stays `default`, so that positions are not scaled at all. The model
# differs from the one that was trained on every row, not on long ones only.
# Seen: {"type": "linear", "factor": 8} is kind `linear` for Llama and kind `default`, beside the factor, for Gemma 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cat >"$folder/kind.py" <<'end'
import json
import pathlib
import sys

from transformers import AutoConfig

sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 2,
         "intermediate_size": 64, "vocab_size": 64, "rope_theta": 1e6}


def parameters(family, key):
    """The rotary parameters of layers that attend to all tokens, where the kind of scaling stands under this key."""
    config = {"model_type": family} | sizes | {"rope_scaling": {key: "linear", "factor": 8.0}}
    pathlib.Path(sys.argv[1], "config.json").write_text(json.dumps(config))
    found = AutoConfig.from_pretrained(sys.argv[1]).rope_parameters
    return found.get("full_attention", found)


for family in ("llama", "gemma3_text"):
    for key in ("type", "rope_type"):
        print(family, key, parameters(family, key))
assert parameters("llama", "type")["rope_type"] == parameters("llama", "rope_type")["rope_type"] == "linear"
assert parameters("gemma3_text", "rope_type")["rope_type"] == "linear"
ignored = parameters("gemma3_text", "type")
assert ignored["rope_type"] == "default" and ignored["factor"] == 8.0, "Gemma 3 takes `type` now"
end
mkdir "$folder/model"
TRANSFORMERS_VERBOSITY=error timeout 120 "$folder/venv/bin/python" "$folder/kind.py" "$folder/model"
