"""A checkpoint loaded for use: model, tokenizer, config. `generate`, `evaluate` and launch/api.py start here."""

from __future__ import annotations

import jax

from data.tokenizers.tokenizer import tokenizer_from_json
from launch.machine.auto import decoding_execution
from model.transformer import abstract_model
from train import fields
from train.checkpoint import read_weights
from train.checkpoint_folder import find_checkpoint
from train.config import Experiment

NOT_FINITE = "some of its weights are no finite numbers; take another checkpoint"  # the end of an error message


class LoadedCheckpoint:
    """A checkpoint on one device: its `model`, `tokenizer`, `config` (the Experiment) and `step`.

    `metadata`: all that the checkpoint says of itself. `trained_length`: tokens of the longest rows that the weights
    were trained on, in this run or before it. `weights`: `average` or `plain`; None: the average where one was kept.
    Raises CheckpointError.
    """

    def __init__(self, name: str, weights: str | None = None):
        checkpoint = find_checkpoint(name)
        self.name, self.step, self.folder = name, checkpoint.step, checkpoint.folder
        self.metadata = checkpoint.metadata
        self.config: Experiment = fields.from_json(Experiment, self.metadata["config"])
        self.tokenizer = tokenizer_from_json(self.metadata["tokenizer"])
        self.trained_length: int = self.metadata["trained_length"]
        execution = decoding_execution(self.config.execution)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = abstract_model(self.config.model, execution)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
        self.model = read_weights(checkpoint, shapes, weights)

    def length_warning(self, length: int) -> str | None:
        """A line of warning where rows of `length` tokens are longer than those of training; else None."""
        if length <= self.trained_length:
            return None
        return (
            f"{self.name} was trained on rows of {self.trained_length} tokens: behind them, up to {length}, stand "
            "positions that it never saw"
        )
