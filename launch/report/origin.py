"""Which weights a file of `skald quality` measured, and whether they are those of the checkpoint that is there now."""

from __future__ import annotations

from pathlib import Path

from launch.report.json_files import Part
from train.checkpoint_folder import METADATA, checkpoint_digest

WEIGHTS = {"average": "the average of the weights", "plain": "the weights as they are, not their average"}


def origin(file: Part, folder: Path) -> list[str]:
    """Sentences for a person; none for the weights of the run's own checkpoint as they are used by default."""
    weights, quantize = file.get("weights"), file.get("quantize")
    measured = [WEIGHTS.get(weights.text(), weights.text())] if weights else []
    measured += [f"weights in {quantize.text()}"] if quantize and quantize.text() != "none" else []
    sentences = [f"Measured with {', '.join(measured)}."] if measured else []
    if is_of_another_checkpoint(file, folder):
        step = file["step"].whole()
        sentences.append(f"These figures are of an earlier checkpoint at step {step:,}: another one is there now.")
    return sentences


def is_of_another_checkpoint(file: Part, folder: Path) -> bool:
    """Whether a run has a checkpoint of the file's step that is not the one that was measured."""
    digest = file.get("checkpoint")
    if digest is None:
        return False
    there = folder / "checkpoints" / str(file["step"].whole())
    if not (there / METADATA).is_file():
        return False
    try:
        return digest.text() != checkpoint_digest(there)
    except (OSError, ValueError):  # it is being removed, or damaged
        return False
