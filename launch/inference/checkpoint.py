"""A checkpoint loaded for use: model, tokenizer, config. `generate`, `evaluate` and launch/api.py start here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax

from data.tokenizers.tokenizer import Tokenizer, tokenizer_from_json
from launch.inference import generation_config
from launch.inference.stored_sampler import stored_sampler
from launch.machine.auto import decoding_execution
from model.config import Model
from model.transformer import Transformer, abstract_model
from train import fields
from train.base import read_model
from train.checkpoint import model_config
from train.checkpoint_folder import checkpoint_digest, find_checkpoint
from train.config import AUTO_EXECUTION, Evaluation, Experiment

MAX_NEW_TOKENS = 300  # where neither a person nor an imported checkpoint says how many
NOT_FINITE = "some of its weights are no finite numbers; take another checkpoint"  # the end of an error message


class DescribedCheckpoint:
    """What a checkpoint says of itself, without its arrays: its `model_config`, `tokenizer` and `step`.

    `config`: the Experiment; None for an imported checkpoint, which no experiment made. `metadata`: all that the
    checkpoint says of itself. `trained_length`: tokens of the longest rows that the weights were trained on, in this
    run or before it. `sampler`: the default chain, that which was stored for it or else `config_sampler`;
    `max_new_tokens`: of a text, by default. `stop_ids`: the ids that end a text. `weights`: `average` or `plain`; None:
    the average where one was kept. `kv_cache`: how a decoder remembers keys and values, as execution.cache of the
    config; `quantize`: in how many bits it keeps weights, as execution.quantize; None: as that says. Raises
    CheckpointError.
    """

    def __init__(self, name: str, weights: str | None = None, kv_cache: str | None = None, quantize: str | None = None):
        checkpoint = find_checkpoint(name)
        self.name, self.step, self.folder = name, checkpoint.step, checkpoint.folder
        self.checkpoint, self.weights = checkpoint, weights
        self.metadata = checkpoint.metadata
        self.config: Experiment | None = fields.from_json(Experiment | None, self.metadata["config"])
        self.model_config: Model = model_config(checkpoint)
        self.tokenizer = tokenizer_from_json(self.metadata["tokenizer"])
        self.trained_length: int = self.metadata["trained_length"]
        huggingface = self.metadata["huggingface"]
        self.stop_ids = end_ids(self.config, huggingface, self.tokenizer)
        self.config_sampler = default_sampler(self.config, huggingface, self.stop_ids, self.tokenizer.vocab_size)
        generation = huggingface and huggingface["generation_config"]
        self.max_new_tokens = (generation and generation_config.max_new_tokens(generation)) or MAX_NEW_TOKENS
        execution = decoding_execution(self.config.execution if self.config else AUTO_EXECUTION)
        chosen = {name: value for name, value in (("cache", kv_cache), ("quantize", quantize)) if value}
        self.execution = replace(execution, **chosen)

    @functools.cached_property
    def digest(self) -> str:
        """What tells this checkpoint from any other, wherever it lies."""
        return checkpoint_digest(self.folder)

    @functools.cached_property
    def stored_sampler(self) -> str | None:
        """The default chain that `skald quality` stored for this checkpoint. Raises DataError."""
        return stored_sampler(self.folder.parents[1], self.step, self.digest)

    @property
    def sampler(self) -> str:
        return self.config_sampler if self.stored_sampler is None else self.stored_sampler

    def length_warning(self, length: int) -> str | None:
        """A line of warning where rows of `length` tokens are longer than those of training; else None."""
        if length <= self.trained_length:
            return None
        return (
            f"{self.name} was trained on rows of {self.trained_length} tokens: behind them, up to {length}, stand "
            "positions that it never saw"
        )


class LoadedCheckpoint(DescribedCheckpoint):
    """A checkpoint on one device: its `model`, and all that it says of itself. Raises CheckpointError."""

    def __init__(self, name: str, weights: str | None = None, kv_cache: str | None = None, quantize: str | None = None):
        super().__init__(name, weights, kv_cache, quantize)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = abstract_model(self.model_config, self.execution)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
        self.model = read_model(self.checkpoint, shapes, weights)


def decoded_model(run: LoadedCheckpoint) -> Transformer:
    """The model with the weights that a decoder has: in fewer bits where the run's execution.quantize says so."""
    if run.execution.quantize == "none":
        return run.model
    return jax.jit(Transformer.for_decoding)(run.model)


def end_ids(experiment: Experiment | None, huggingface: dict | None, tokenizer: Tokenizer) -> list[int]:
    """The ids that end a text.

    An import ends texts where its files say, and if they name no id, where its tokenizer does; once it is trained here,
    where either does: the tokenizer's end token stood behind every document."""
    own_end = [i for i in (tokenizer.end_id,) if i is not None]
    if huggingface is None:
        return own_end
    ends = generation_config.end_ids(huggingface["generation_config"], huggingface["config"], tokenizer.vocab_size)
    return ends if ends and experiment is None else list(dict.fromkeys([*ends, *own_end]))


def default_sampler(
    experiment: Experiment | None, huggingface: dict | None, ends: Sequence[int], vocab_size: int
) -> str:
    """The chain of a checkpoint for who names none: its run's own (`evaluation.sampler`); of an import, and of a run
    from one whose config says no other, that of its generation_config.json."""
    own = Evaluation.sampler if experiment is None else experiment.evaluation.sampler
    config = huggingface and huggingface["generation_config"]
    if config is None or own != Evaluation.sampler:
        return own
    return generation_config.sampler(config, ends, vocab_size)
