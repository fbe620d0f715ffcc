"""Scores tasks while a model trains (`evaluation.tasks`). launch/commands/train.py gives it to the run's evaluation."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from data.errors import DataError
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.tasks.evaluate import PreparedTask
from launch.inference.tasks.generation import TaskWriter
from launch.inference.tasks.task import read_tasks
from model.config import Model
from model.decode.chain import SamplerError
from model.decode.prompts import PromptError
from model.transformer import Transformer
from train import processes
from train.checkpoint_folder import CheckpointError
from train.config import Experiment
from train.fields import ConfigError
from train.run import RunError

NO_MESH = jax.sharding.Mesh(np.empty((), object), ())


@dataclass(eq=False)
class ModelInTraining:
    """What scores tasks needs of a checkpoint, of a model that has none yet; before training there is no `model`."""

    tokenizer: Tokenizer
    trained_length: int
    model_config: Model
    stop_ids: Sequence[int]
    model: Transformer | None = None
    name: str = "this run"


class TrainingTasks:
    """The tasks of an experiment, checked. `context`: tokens that the model is trained on at a time.

    Raises ConfigError where one can't be scored: before anything is trained.
    """

    def __init__(self, experiment: Experiment, tokenizer: Tokenizer, context: int):
        names = experiment.evaluation.tasks
        if names and processes.count() > 1:
            raise ConfigError(
                "evaluation.tasks: a run of several processes can't score tasks; leave them out, and score its "
                "checkpoints: skald evaluate RUN --tasks …"
            )
        ends = [end for end in (tokenizer.end_id,) if end is not None]
        self.before = ModelInTraining(tokenizer, context, experiment.model, ends)
        try:
            self.tasks = [PreparedTask(self.before, task, TaskWriter(self.before)) for task in read_tasks(names)]
        except (ConfigError, DataError, PromptError, SamplerError, CheckpointError, RunError) as error:
            raise ConfigError(f"evaluation.tasks: {error}") from None

    def scores(self, model: Transformer) -> Iterator[dict[str, float]]:
        """The metrics by name, `tasks/TASK/METRIC`: those that are known after each example, in the end all.

        They are computed as `skald evaluate` does, from the weights on one device, without the run's own mesh, which is
        set again between two examples. No memory of a device is kept once all are computed, or this is closed.
        """
        try:
            yield from self.scores_of_copy(model)
        finally:
            if self.tasks:
                gc.collect()  # what writes texts refers to itself, and would keep its weights

    def scores_of_copy(self, model: Transformer) -> Iterator[dict[str, float]]:
        values: dict[str, float] = {}
        if self.tasks:
            alone = jax.device_put(model, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
            run = ModelInTraining(**vars(self.before) | {"model": alone})
            writer = TaskWriter(run)
        for task in self.tasks:
            results, computed = [], task.with_run(run, writer).results(set(), lambda: None)
            while True:
                with jax.set_mesh(NO_MESH):
                    result = next(computed, None)
                if result is None:
                    break
                results.append(result)
                yield values
            summary = task.metric.summary(sorted(results, key=lambda result: result["index"]))
            numbers = {name: value for name, value in summary.items() if isinstance(value, float)}
            values = values | {f"tasks/{task.task.name}/{name}": value for name, value in numbers.items()}
        yield values
