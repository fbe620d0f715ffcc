"""The smaller model that drafts texts (model/decode/speculation.py), opened by the name of its run. `skald generate
--draft RUN` calls it.
"""

from __future__ import annotations

from launch.inference.amateur import check_vocabulary
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.text_engine import SLOTS
from model.decode.speculation import DraftModel


def load_draft_model(run: str, tokenizer) -> DraftModel:
    """The drafter of a run. Raises CheckpointError, SamplerError where its tokens are others than the tokenizer's, and
    PromptError where its model can't forget drafts."""
    loaded = LoadedCheckpoint(run)
    check_vocabulary(run, loaded.tokenizer, tokenizer, "speculation")
    return DraftModel(
        loaded.model, vocab_size=tokenizer.vocab_size, context=loaded.trained_length, slots=SLOTS
    )  # fmt: skip
