#!/usr/bin/env bash
# transformers 5.24.0 (CPython 3.11). A config.json of today keeps rotary positions in `rope_parameters`, with `rope_theta`
# in it; one of before has `rope_theta` and `rope_scaling`. A file that has both objects, so that old and new programs can
# read it, loses its theta: the old `rope_scaling` takes the place of the new object, and rope_theta falls to the family's
# default of 10,000, although `rope_parameters` names another. Nothing is said, and the model that loads is another one.
# A top-level `rope_theta` beside them, or `"rope_scaling": null`, keeps it. So write one of the two objects.
# Seen, Llama, both objects with factor 2: rope_theta 500000 in the file, 10000 in the config that was loaded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cat >"$folder/theta.py" <<'end'
import json
import pathlib
import sys

from transformers import AutoConfig

sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 64}
new = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}}
old = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}


def theta(keys):
    """The base of the rotary positions that transformers reads from a config.json with these keys."""
    pathlib.Path(sys.argv[1], "config.json").write_text(json.dumps({"model_type": "llama"} | sizes | keys))
    return AutoConfig.from_pretrained(sys.argv[1]).rope_parameters["rope_theta"]


files = {
    "rope_parameters": new,
    "rope_theta, rope_scaling": old | {"rope_theta": 500000.0},
    "rope_parameters, rope_scaling": new | old,
    "rope_parameters, rope_scaling, rope_theta": new | old | {"rope_theta": 500000.0},
    "rope_parameters, rope_scaling null": new | {"rope_scaling": None},
}
found = {name: theta(keys) for name, keys in files.items()}
for name, value in found.items():
    print(f"{name}: {value:g}")
lost = found.pop("rope_parameters, rope_scaling")
assert lost == 10000.0, "both objects together keep theta now"
assert set(found.values()) == {500000.0}
end
mkdir "$folder/model"
TRANSFORMERS_VERBOSITY=error timeout 120 "$folder/venv/bin/python" "$folder/theta.py" "$folder/model"
