"""launch.api: what the Python surface refuses, and what it means by its arguments."""

import numpy as np
import pytest

from data.errors import DataError
from launch.api import load
from model.decode.chain import SamplerError
from model.decode.prompts import PromptError, PromptTooLong

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def run(trained_run):
    return load(str(trained_run))


@pytest.mark.parametrize(
    "tokens, kind, part",
    [
        ([1, 2], PromptError, "integers [B, T]"),
        ([[[1]]], PromptError, "shape (1, 1, 1)"),
        ([[]], PromptError, "shape (1, 0)"),
        ([[1.5]], PromptError, "float64"),
        ([[1], [2, 3]], PromptError, "differ in length"),
        ([[0, 65]], PromptError, "the id 65; ids go from 0 to 64"),
        ([[-1]], PromptError, "the id -1"),
        ([[2**40]], PromptError, f"the id {2**40}"),
        ([[0] * 33], PromptTooLong, "33 tokens and the model's context is 32"),
    ],
)
def test_logits_refuses_tokens_that_are_none(run, tokens, kind, part):
    with pytest.raises(kind) as error:
        run.logits(tokens)
    assert part in str(error.value) and isinstance(error.value, ValueError)


def test_logits_takes_every_id_and_the_whole_context(run):
    assert run.logits([list(range(33, 65))]).shape == (1, 32, 65)
    assert run.logits(np.zeros((2, 1), np.uint8)).shape == (2, 1, 65)


def test_one_stop_text_is_not_its_characters(run):
    options = {"prompt": "A", "max_new_tokens": 40, "seed": 5}
    (free,) = run.generate(**options)
    stop = free["text"][20:23]
    (stopped,) = run.generate(**options, stop=stop)
    assert stopped == run.generate(**options, stop=[stop])[0]
    assert stopped["text"] == free["text"][: free["text"].index(stop)]
    with pytest.raises(PromptError, match="stop text is empty"):
        run.generate(**options, stop="")


def test_a_watermark_is_found_in_the_text_by_its_key_alone(run):
    (marked,) = run.generate("A", sampler="watermark(key=77,gamma=0.5,delta=6)", max_new_tokens=200, seed=5)
    found = run.watermark(marked["text"], key=77, gamma=0.5)
    assert found["z_score"] > 6 and found["p_value"] < 1e-6 and found["green_fraction"] > 0.8
    assert abs(run.watermark(marked["text"], key=78, gamma=0.5)["z_score"]) < 4
    with pytest.raises(SamplerError, match="key of watermark is -1"):
        run.watermark("some text", key=-1)
    with pytest.raises(DataError, match="the text has 1 tokens"):
        run.watermark("a", key=1)
