"""launch.machine.auto chooses what a config leaves open, and never changes what a person set."""

import jax
import pytest

from launch import experiments
from launch.machine import auto, cpu

WIDTH, LAYERS, VOCAB, CONTEXT = 768, 12, 50257, 1024  # GPT-2 small, Radford et al. 2019
TABLES = (VOCAB + CONTEXT) * WIDTH
MATRICES = 12 * LAYERS * WIDTH**2  # query, key, value, output; up and down of four times the width
VECTORS = (
    LAYERS * (4 * WIDTH + 4 * WIDTH + (4 + 1) * WIDTH) + 2 * WIDTH
)  # two norms, attention's and hidden biases; end


def adafactor_numbers() -> int:
    """Rows and columns of every matrix; of vectors their own second moments and one mean of each."""
    matrices = VOCAB + CONTEXT + 2 * WIDTH + LAYERS * (4 * 2 * WIDTH + 2 * 5 * WIDTH)
    return matrices + VECTORS + 10 * LAYERS + 2


@pytest.mark.parametrize(
    "rule, expected",
    [
        ("adamw", 2 * (TABLES + MATRICES + VECTORS)),
        ("lion", TABLES + MATRICES + VECTORS),
        ("muon", MATRICES + 2 * (TABLES + VECTORS)),
        ("adafactor", adafactor_numbers()),
    ],
)
def test_what_the_optimizer_keeps_of_gpt2_is_what_its_shapes_say(rule, expected):
    """Compared with the paper's shapes, to the few counters that there are."""
    experiment = experiments.resolve("gpt2:small", [f"optimizer.rule={rule}"], None)
    parameters = TABLES + MATRICES + VECTORS
    assert auto.optimizer_numbers(experiment) * parameters == pytest.approx(expected, abs=4)
    averaged = experiments.resolve("gpt2:small", [f"optimizer.rule={rule}", "optimizer.average=0.9"], None)
    assert auto.optimizer_numbers(averaged) * parameters == pytest.approx(expected + parameters, abs=4)


@pytest.mark.parametrize("settings, layers, loops", [([], "unroll", False), (["execution.layers=scan"], "scan", True)])
def test_layers_run_as_they_are_set_and_unrolled_on_a_cpu_where_nothing_is(settings, layers, loops):
    """Seen in the program: a loop over four layers forward, and one backward."""
    experiment = experiments.resolve("shakespeare", [*settings, "execution.remat=none"], None)
    program = auto.make_program(experiment, jax.devices()[:1])
    assert program.experiment.execution.layers == layers
    text = program.lower().as_text()
    assert (text.count("stablehlo.while") >= 2 + 1) == loops  # and one over the steps of a dispatch


@pytest.mark.parametrize("has_them, precision", [(True, "bfloat16"), (False, "default")])
def test_products_are_rounded_where_the_processor_multiplies_bfloat16(has_them, precision, monkeypatch):
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: has_them)
    open_choice = experiments.resolve("shakespeare", [], None)
    exact = experiments.resolve("shakespeare", ["execution.precision=default"], None)
    device = jax.devices()[0]
    assert auto.resolve(open_choice, device, 2).execution.precision == precision
    assert auto.resolve(exact, device, 2).execution.precision == "default"


def test_what_is_set_is_obeyed_and_what_is_open_is_chosen():
    device = jax.devices()[0]
    resolved = auto.resolve(experiments.resolve("shakespeare", [], None), device, 2)
    assert (resolved.mesh.replica, resolved.mesh.data, resolved.steps_per_dispatch) == (0, 1, 10)
    settings = {
        "mesh.data": 2, "steps_per_dispatch": 3, "execution.dtype": "bfloat16", "execution.layers": "scan",
        "execution.remat": "full", "execution.kernel": "reference", "execution.loss_chunks": 2,
        "execution.precision": "default",
    }  # fmt: skip
    experiment = experiments.resolve("shakespeare", [f"{path}={value}" for path, value in settings.items()], None)
    assert auto.resolve(experiment, device, 2) == experiment
