"""Checks that an experiment's objective goes with its data and its batch. train/check.py calls it."""

from __future__ import annotations

from data.config import Data, Mixture, Source
from train import config as c
from train.config import Experiment
from train.fields import ConfigError, require


def check_objective(experiment: Experiment) -> None:
    """Raises ConfigError."""
    CHECKS[type(experiment.objective)](experiment)


def check_likelihood(e: Experiment) -> None:
    """Raises ConfigError for preference pairs: the rejected responses are not to be learned."""
    smoothing = e.objective.label_smoothing
    require("objective.label_smoothing", smoothing, 0 <= smoothing < 1, "from 0 to below 1")
    require("data.packing", e.data.packing, e.data.packing != "pairs", "another one without objective=DPO")
    for path, source in all_sources(e.data):
        expected = "null without data.packing=pairs and objective=DPO"
        require(f"{path}.rejected", source.rejected, source.rejected is None, expected)


def check_preferences(e: Experiment) -> None:
    """Raises ConfigError for data that are no pairs, a batch that would part them, and numbers that mean nothing."""
    o, packing = e.objective, e.data.packing
    require("data.packing", packing, packing == "pairs", "pairs with objective=DPO, which compares two responses")
    for path, source in all_sources(e.data):
        expected = "the name of the worse response's field with objective=DPO"
        require(f"{path}.rejected", source.rejected, source.rejected is not None, expected)
        is_other = source.rejected not in (source.field, source.prompt)
        require(f"{path}.rejected", source.rejected, is_other, "another field than the source's field and prompt")
    if e.batch_size % (2 * e.microbatches):
        nearest = nearest_multiples(e.batch_size, 2 * e.microbatches)
        raise ConfigError(
            f"batch_size: {e.batch_size} rows in microbatches={e.microbatches} are no whole pairs of rows; {nearest}"
        )
    require("objective.beta", o.beta, o.beta > 0, "above 0")
    smoothing = o.label_smoothing
    require("objective.label_smoothing", smoothing, 0 <= smoothing < 0.5, "from 0 to below 0.5")
    expected = f"0 with objective.loss={o.loss}, which has none"
    require("objective.label_smoothing", smoothing, not smoothing or o.loss == "sigmoid", expected)
    require("z_loss", e.z_loss, not e.z_loss, "0 with objective=DPO")


def nearest_multiples(size: int, divisor: int) -> str:
    low = size - size % divisor
    return f"try {low} or {low + divisor}" if low else f"try {divisor}"


def all_sources(data: Data) -> list[tuple[str, Source]]:
    """The sources of training, and that of validation where it has one of its own, each with its path."""
    sources = [("data.source", data.source)]
    if isinstance(data.source, Mixture):
        sources = [(f"data.source.parts.{number}.source", part.source) for number, part in enumerate(data.parts)]
    return sources + [("data.validation_source", source) for source in (data.validation_source,) if source]


CHECKS = {c.LikelihoodLoss: check_likelihood, c.DPO: check_preferences}
