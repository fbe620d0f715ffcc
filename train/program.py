"""What is compiled of a run: its mesh, the steps on it, the shapes of their inputs. train/run.py runs it on the devices
that are here, launch/plan compiles it for machines that are not."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from data.rows import Rows
from model import schedule
from model.sharding import (
    ShardingError,
    check_chunks,
    make_mesh,
    nearest_sizes,
    partition_spec,
    shard_count,
    time_order,
)
from model.transformer import Transformer
from train import state, step
from train.config import Experiment
from train.feed import ROW_AXES, rows_shape
from train.objective import make_objective


class Program:
    """The training steps of an experiment and its evaluation, compiled for a mesh over `devices`; None: those that are
    here.

    `rewrite(function, precision)` may change a function for the machine before it is compiled, its numbers as far as
    that precision (Execution) allows. Evaluation has `default`. `options`: the compiler's, by name, for the steps.
    """

    def __init__(
        self,
        experiment: Experiment,
        devices: list | None = None,
        rewrite: Callable = lambda function, precision: function,
        options: dict[str, str] | None = None,
    ):
        self.experiment, self.mesh = experiment, make_mesh(vars(experiment.mesh), devices)
        steps = rewrite(functools.partial(step.train_steps, experiment), experiment.execution.precision)
        self.train_steps = jax.jit(steps, donate_argnums=0, compiler_options=options)
        self.objective = make_objective(experiment)
        self.batch_sums = jax.jit(rewrite(self.objective.batch_sums, "default"))

    @functools.cached_property
    def abstract_state(self) -> state.TrainState:
        """Shapes, dtypes and shardings of the state on this mesh; nothing is computed."""
        return self.abstract(lambda: state.create_state(self.experiment))

    @functools.cached_property
    def abstract_model(self) -> Transformer:
        """Shapes, dtypes and shardings of the weights that the state begins with."""
        return self.abstract(lambda: state.random_weights(self.experiment))

    def abstract(self, make: Callable):
        """Shapes, dtypes and shardings of what `make` returns on this mesh."""
        with jax.set_mesh(self.mesh):
            shapes = jax.eval_shape(make)

        def on_mesh(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            spec = x.sharding.spec if x.sharding else PartitionSpec()
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))

        return jax.tree.map(on_mesh, shapes)

    def abstract_rows(self, steps: int = 1) -> Rows:
        """Shapes, dtypes and shardings of the rows of one dispatch: [steps, M, B / M, T]."""
        e = self.experiment
        shape = rows_shape(steps, e.microbatches, e.batch_size, e.data.length)
        with jax.set_mesh(self.mesh):
            sharding = NamedSharding(self.mesh, partition_spec((None, None, *ROW_AXES), shape, "compute"))
        dtypes = Rows(jnp.int32, jnp.int32, jnp.int32, jnp.int32, jnp.float32)
        return Rows(*(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for dtype in dtypes))

    def lower(self) -> jax.stages.Lowered:
        """One step, traced for this mesh."""
        with jax.set_mesh(self.mesh):
            return self.train_steps.lower(self.abstract_state, self.abstract_rows())

    def check_fits(self) -> None:
        """Raises ShardingError where parameters or rows do not divide over the mesh."""
        e, _ = self.experiment, self.abstract_state
        with jax.set_mesh(self.mesh):
            partition_spec(ROW_AXES, (e.batch_size // e.microbatches, e.data.length), "compute")
            self.check_rows_together()
            time_order(e.data.length)
            try:
                check_chunks("time", e.data.length, e.execution.loss_chunks)
            except ShardingError as error:
                raise ShardingError(f"execution.loss_chunks={e.execution.loss_chunks}: {error}") from None
        self.pipeline_microbatches()

    def check_rows_together(self) -> None:
        """Raises ShardingError where rows that belong together would be on two devices of the current mesh."""
        e, shards = self.experiment, shard_count("batch")
        multiple = e.data.rows_together * shards * e.microbatches
        if e.batch_size % multiple:
            raise ShardingError(
                f"batch_size: {e.batch_size} rows are no whole pairs on each of the {shards} devices that share them "
                f"(microbatches={e.microbatches}); {nearest_sizes(e.batch_size, multiple)}"
            )

    def pipeline_microbatches(self) -> int:
        """The number of microbatches into which a pipeline cuts the rows of a gradient; 1 where there is no pipeline.
        Raises ShardingError."""
        e = self.experiment
        with jax.set_mesh(self.mesh):
            return schedule.microbatch_count(e.batch_size // e.microbatches, e.execution)
