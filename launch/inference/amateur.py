"""The second model of a contrast: opened by the name of its run, for the vocabulary of the first.

launch/inference/text.py calls it.
"""

from __future__ import annotations

import weakref
from pathlib import Path

from data.tokenizers.tokenizer import Tokenizer, tokenizer_fingerprint, tokenizer_from_json
from launch.inference.checkpoint import LoadedCheckpoint
from model.decode.chain import SamplerError
from model.decode.generate import DecodingModel
from train.checkpoint_folder import find_checkpoint

LOADED: weakref.WeakValueDictionary[Path, DecodingModel] = weakref.WeakValueDictionary()  # by the checkpoint's folder


def load_amateur(run: str, tokenizer: Tokenizer) -> DecodingModel:
    """The model of a run, prepared for decoding; its weights are held once, however many ask for it.

    Raises CheckpointError, and SamplerError where its tokens are others than the tokenizer's.
    """
    checkpoint = find_checkpoint(run)
    check_vocabulary(run, tokenizer_from_json(checkpoint.metadata["tokenizer"]), tokenizer)
    folder = checkpoint.folder.resolve()
    model = LOADED.get(folder)
    if model is None:
        loaded = LoadedCheckpoint(f"{folder.parents[1]}@{checkpoint.step}")
        model = LOADED[folder] = DecodingModel(loaded.model, loaded.trained_length)
    return model


def check_vocabulary(run: str, amateur: Tokenizer, expert: Tokenizer, purpose: str = "contrast") -> None:
    """Raises SamplerError where an id of the one is not the same token of the other. `purpose`: what needs them."""
    if tokenizer_fingerprint(amateur) == tokenizer_fingerprint(expert):
        return
    needed = f"{purpose} needs two models of one vocabulary, and that of {run}"
    if amateur.vocab_size != expert.vocab_size:
        raise SamplerError(f"{needed} has {amateur.vocab_size} tokens, this model's {expert.vocab_size}")
    for token in range(expert.vocab_size):
        theirs, own = amateur.decode([token]), expert.decode([token])
        if theirs != own:
            raise SamplerError(f"{needed} is another: its token {token} is {theirs!r}, this model's {own!r}")
