"""`skald configs`: every config with its parameters and what it is for."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace

from launch import experiments
from model.transformer import abstract_model
from train.run import count_parameters


def main(arguments: Namespace) -> int:
    entries = [describe(f"{name}:{variant}", make) for name, variant, make in all_configs()]
    if arguments.json:
        print(json.dumps({"configs": entries}))
        return 0
    for entry in entries:
        print(f"{entry['name']:<22}{format_count(entry['parameters']):>8}  {entry['for']}")
    return 0


def all_configs():
    """(name, variant, function) of every config."""
    for name in experiments.names():
        for variant, make in experiments.variants(importlib.import_module(f"configs.{name}")).items():
            yield name, variant, make


def describe(name: str, make) -> dict:
    experiment = make()
    line = (make.__doc__ or "").strip().split("\n")[0]
    return {
        "name": name.removesuffix(":default"),
        "parameters": count_parameters(abstract_model(experiment.model)),
        "for": line,
    }


def format_count(count: int) -> str:
    """A number of parameters in few characters: 1234567 -> 1.23 M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
