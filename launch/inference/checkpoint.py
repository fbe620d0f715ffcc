"""A checkpoint loaded for use: model, tokenizer, config. `generate`, `evaluate` and launch/api.py start here."""

from __future__ import annotations

import jax

from data.tokenizers.tokenizer import Tokenizer, tokenizer_from_json
from launch.inference import generation_config
from launch.machine.auto import decoding_execution
from model.config import Model
from model.transformer import abstract_model
from train import fields
from train.base import read_model
from train.checkpoint import model_config
from train.checkpoint_folder import find_checkpoint
from train.config import AUTO_EXECUTION, Experiment

SAMPLER = "temperature=0.8,top_p=0.95"  # where neither a person nor an imported checkpoint names one
NOT_FINITE = "some of its weights are no finite numbers; take another checkpoint"  # the end of an error message


class LoadedCheckpoint:
    """A checkpoint on one device: its `model`, `model_config`, `tokenizer` and `step`.

    `config`: the Experiment; None for an imported checkpoint, which no experiment made. `metadata`: all that the
    checkpoint says of itself. `trained_length`: tokens of the longest rows that the weights were trained on, in this
    run or before it. `sampler`: the default chain. `stop_ids`: the ids that end a text. `weights`: `average` or
    `plain`; None: the average where one was kept. Raises CheckpointError.
    """

    def __init__(self, name: str, weights: str | None = None):
        checkpoint = find_checkpoint(name)
        self.name, self.step, self.folder = name, checkpoint.step, checkpoint.folder
        self.metadata = checkpoint.metadata
        self.config: Experiment | None = fields.from_json(Experiment | None, self.metadata["config"])
        self.model_config: Model = model_config(checkpoint)
        self.tokenizer = tokenizer_from_json(self.metadata["tokenizer"])
        self.trained_length: int = self.metadata["trained_length"]
        self.sampler, self.stop_ids = generation_defaults(self.metadata, self.tokenizer)
        execution = decoding_execution(self.config.execution if self.config else AUTO_EXECUTION)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = abstract_model(self.model_config, execution)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
        self.model = read_model(checkpoint, shapes, weights)

    def length_warning(self, length: int) -> str | None:
        """A line of warning where rows of `length` tokens are longer than those of training; else None."""
        if length <= self.trained_length:
            return None
        return (
            f"{self.name} was trained on rows of {self.trained_length} tokens: behind them, up to {length}, stand "
            "positions that it never saw"
        )


def generation_defaults(metadata: dict, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The default sampler chain, and the ids that end a text, of a checkpoint's metadata.

    An import ends texts where its files say, and if they name no id, where its tokenizer does; once it is trained here,
    where either does: the tokenizer's end token stood behind every document."""
    huggingface = metadata["huggingface"]
    own_end = [i for i in (tokenizer.end_id,) if i is not None]
    if huggingface is None:
        return SAMPLER, own_end
    config = huggingface["generation_config"]
    ends = generation_config.end_ids(config, huggingface["config"], tokenizer.vocab_size)
    if metadata["config"] is not None or not ends:
        ends = list(dict.fromkeys([*ends, *own_end]))
    return SAMPLER if config is None else generation_config.sampler(config), ends
