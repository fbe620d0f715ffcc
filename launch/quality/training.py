"""The distance from human text of a model in training (`evaluation.human`): launch/commands/train.py gives it to the
run's evaluation, and train/listeners/human_distance.py ends the run on it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from data.errors import DataError
from data.pipeline import Pipeline
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.text import TextGenerator, training_chain
from launch.quality.prompts import draw_places, start_tokens
from model.decode.chain import Chain
from model.decode.links.words import MinLength
from model.sharding import decoding_mesh
from model.transformer import Transformer
from train.checkpoint_folder import RANKED_BY
from train.config import Experiment
from train.fields import ConfigError
from train.quality.diversity import estimates
from train.quality.gate import GATED, human_intervals

PREFIX = RANKED_BY["human"].removesuffix("distance")


class TrainingDistance:
    """Held-out prompts, what people wrote behind them and what it spans, for the model of a run to go on from.

    All texts have `new_tokens` tokens: the end token is ruled out, as behind no prompt a document of people's ends so
    soon. Prompts and seeds are the same at every evaluation, so that distances differ by the model alone. `context`:
    tokens that the model is trained on at a time. Raises ConfigError, before anything is trained.
    """

    def __init__(self, experiment: Experiment, data: Pipeline, context: int, report: Callable[[str], None]):
        self.human, self.tokenizer, self.context = experiment.evaluation.human, data.tokenizer, context
        self.report, self.prices = report, ["with its programs' compilation", "once they are compiled"]
        if self.human is None:
            return
        check_passages(experiment, data.tokenizer, context)
        chain = training_chain("evaluation.human.sampler", self.human.sampler, data.tokenizer, context)
        self.chain = of_fixed_length(chain, self.human.new_tokens)
        sizes = self.human.texts, self.human.prompt_tokens, self.human.new_tokens
        try:
            places = draw_places(data.validation, data.tokenizer, *sizes, experiment.seed)
            self.intervals = human_intervals([np.array(place.human) for place in places])
        except (DataError, ValueError) as error:
            raise ConfigError(f"evaluation.human: {error}") from None
        self.prompts = [list(place.prompt) for place in places]
        self.seeds = np.random.default_rng(experiment.seed).integers(2**63, size=len(places)).tolist()

    def scores(self, model: Transformer) -> Iterator[dict[str, float]]:
        """The metrics by name, `eval/human/NAME`: none after each dispatch of the decoder, in the end all.

        The model goes on from the prompts on the run's devices; its mesh for decoding is set only while a dispatch is
        computed.
        """
        if self.human is None:
            yield {}
            return
        started = time.perf_counter()
        texts = [[] for _ in self.prompts]
        for pieces in self.dispatches(model):
            for text, tokens in zip(texts, pieces, strict=True):
                text += tokens
            yield {}
        found = estimates([np.array(text, np.int64) for text in texts], GATED)
        values = {name: estimate.value for name, estimate in found.items()}
        if self.prices:
            self.report(self.describe_price(time.perf_counter() - started, self.prices.pop(0)))
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        metrics = {"distance": self.intervals.distance(values), **finite}
        yield {f"{PREFIX}{name}": value for name, value in metrics.items()}

    def dispatches(self, model: Transformer) -> Iterator[list[list[int]]]:
        """The new tokens of every text, a dispatch after another."""
        mesh = decoding_mesh(jax.sharding.get_mesh())
        with jax.set_mesh(mesh):
            generator = TextGenerator(model.to_storage(), self.tokenizer, self.context)
            request = {"chain": self.chain, "max_new_tokens": self.human.new_tokens, "seed": self.seeds}
            stream = generator.generator.stream(self.prompts, **request, stop_ids=generator.stop_ids)
        while True:
            with jax.set_mesh(mesh):
                pieces = next(stream, None)
            if pieces is None:
                return
            yield [piece.tokens for piece in pieces]

    def describe_price(self, seconds: float, when: str) -> str:
        size = f"{self.human.texts} texts of {self.human.new_tokens} tokens"
        return f"evaluation.human: {size} take {seconds:.1f} seconds an evaluation, {when}"


def check_passages(experiment: Experiment, tokenizer: Tokenizer, context: int) -> None:
    """Raises ConfigError where held-out texts are no texts of people, or a prompt leaves no room to go on."""
    if experiment.data.packing == "pairs":
        raise ConfigError(
            "evaluation.human: the validation text is preference pairs, half of them rejected; leave it out, and "
            "measure checkpoints over another text"
        )
    prompt_tokens = experiment.evaluation.human.prompt_tokens
    if prompt_tokens + start_tokens(tokenizer) >= context:
        raise ConfigError(
            f"evaluation.human.prompt_tokens: {prompt_tokens} tokens fill the {context} that the model is trained on "
            f"at a time; set {context // 2} or fewer"
        )


def of_fixed_length(chain: Chain, new_tokens: int) -> Chain:
    """The chain without an end token before so many new tokens. Raises ConfigError where it has ends of its own."""
    if chain.ends:
        raise ConfigError(
            "evaluation.human.sampler: all texts are measured at new_tokens tokens, and stop, stop_tokens and "
            "max_repeats end some before; leave them out"
        )
    return dataclasses.replace(chain, links=(MinLength(new_tokens), *chain.links))
