"""Engines on several devices: the texts of one engine in their order, its errors, and no thread left behind."""

import threading

import jax
import pytest

from launch.inference import replicas, text_engine
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.replicas import Replicas
from launch.inference.request import TextRequest
from launch.inference.text_engine import TextEngine
from model.decode.engine import Engine
from train.run import RunError

REQUESTS = [TextRequest(prompt, "temperature=1", 6, seed) for seed, prompt in enumerate(["the king", "my", "O "] * 3)]


@pytest.fixture(scope="module")
def pool(trained_run) -> Replicas:
    """Replicas of a small run on two devices, with four slots each."""
    run = LoadedCheckpoint(str(trained_run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_engine, "SLOTS", 4)
        patch.setattr(replicas, "SLOTS", 4)
        made = Replicas(
            run.model,
            lambda model: TextEngine(model, run.tokenizer, run.trained_length, run.stop_ids),
            jax.devices()[:2],
        )
        assert len(made.engines_for(4)) == 1 and len(made.engines_for(5)) == len(made.engines_for(99)) == 2
        yield made


def test_every_device_writes_a_part_and_the_texts_are_those_of_one_engine(pool):
    steps = []
    written = [answer.samples[0].text for answer in pool.answers(REQUESTS, lambda: steps.append(1))]
    alone = [answer.samples[0].text for answer in pool.engines[0].answers(REQUESTS)]
    assert written == alone and len({*written}) > 3 and steps
    memories = [jax.tree.leaves(engine.engine.memory)[0] for engine in pool.engines]
    assert [memory.devices() for memory in memories] == [{device} for device in jax.devices()[:2]]
    refused = [*REQUESTS, TextRequest("", "temperature=1", 6)]
    assert [bool(answer.error) for answer in pool.answers(refused, lambda: None)] == [False] * 9 + [True]


def test_an_error_in_one_engine_reaches_who_waits_and_no_thread_outlives_it(pool, monkeypatch):
    before, step = threading.active_count(), Engine.step

    def fail_on_the_second(engine):
        if engine is pool.engines[1].engine:
            raise RunError("probabilities are no numbers")
        return step(engine)

    monkeypatch.setattr(Engine, "step", fail_on_the_second)
    with pytest.raises(RunError, match="are no numbers"):
        list(pool.answers(REQUESTS, lambda: None))
    assert threading.active_count() == before
    monkeypatch.setattr(Engine, "step", step)
    pool.engines.clear()
    answers = pool.answers(REQUESTS, lambda: None)
    next(answers)
    answers.close()
    assert threading.active_count() == before
