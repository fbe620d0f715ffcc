"""`skald export RUN FOLDER`: writes a checkpoint as a folder that Hugging Face transformers loads."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from launch.inference.adapters import ExportedAdapters, export_adapters
from launch.inference.export import Export, export_checkpoint


def main(arguments: Namespace) -> int:
    if arguments.adapters:
        adapters = export_adapters(arguments.run, arguments.folder, arguments.weights)
        print(json.dumps(adapters._asdict()) if arguments.json else describe_adapters(adapters))
        return 0
    exported = export_checkpoint(
        arguments.run, arguments.folder, arguments.weights, arguments.dtype, arguments.shard_size
    )
    for note in exported.notes:
        print(f"skald: {note}", file=sys.stderr)
    print(json.dumps(exported.to_json()) if arguments.json else summary(exported))
    return 0


def describe_adapters(exported: ExportedAdapters) -> str:
    return (
        f"{exported.folder}: adapters of rank {exported.rank} for {exported.architecture}, step {exported.step}; "
        f"logits of what was written differ from the run's by at most {exported.difference:.1e}"
    )


def summary(exported: Export) -> str:
    """Two lines: what was written, and how near its logits are."""
    theirs = exported.transformers_difference
    other = "transformers is not installed to compare with" if theirs is None else f"in transformers by {theirs:.1e}"
    return (
        f"{exported.folder}: {exported.architecture}, step {exported.step}, {exported.parameters:,} parameters in "
        f"{exported.dtype}; {', '.join(exported.files)}\n"
        f"logits of what was written differ from the run's by at most {exported.difference:.1e}, {other}"
    )
