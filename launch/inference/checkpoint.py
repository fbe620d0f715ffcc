"""A checkpoint opened for use: model, tokenizer, config. generate, evaluate and the Python surface start here."""

from __future__ import annotations

import jax

from data import tokenizer
from launch.machine.auto import decoding_execution
from model.transformer import abstract_model
from train import fields
from train.checkpoint import read_weights
from train.checkpoint_folder import find_checkpoint
from train.config import Experiment

NOT_FINITE = "some of its weights are no finite numbers; take another checkpoint"  # where what it computes is none


class LoadedCheckpoint:
    """`step`, `config` (the Experiment), `tokenizer` and `model` of the checkpoint of that name.

    `about` is all that the checkpoint says of itself; `trained_length` the tokens of the longest rows that the weights
    have seen, in this run or in the one that it started from. `weights`: `average` or `plain`; None: the average where
    one was kept. Raises CheckpointError.
    """

    def __init__(self, name: str, weights: str | None = None):
        found = find_checkpoint(name)
        self.name, self.step, self.folder, self.metadata = name, found.step, found.folder, found.metadata
        self.config: Experiment = fields.from_json(Experiment, found.metadata["config"])
        self.tokenizer = tokenizer.tokenizer_from_json(found.metadata["tokenizer"])
        self.trained_length: int = found.metadata["trained_length"]
        execution = decoding_execution(self.config.execution)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = abstract_model(self.config.model, execution)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
        self.model = read_weights(found, shapes, weights)

    def untrained(self, length: int) -> str | None:
        """A line where rows of so many tokens have places that training never had."""
        if length <= self.trained_length:
            return None
        return (
            f"{self.name} was trained on rows of {self.trained_length} tokens: behind them, up to {length}, stand "
            "positions that it never saw"
        )
