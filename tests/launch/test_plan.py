"""`skald plan`: programs with known FLOPs and bytes, estimated memory against the compiler's, and what is refused."""

import dataclasses
import functools
import math
import re
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import experiments
from launch.machine import auto, chips, flags, setup
from launch.plan import estimate, hlo, products, topology
from launch.plan.compiled import compile_plan, refused_bytes
from launch.plan.search import possible_meshes, rank_candidates
from model import config, cost, kernels
from model.experts import expert_mlp
from model.sharding import make_mesh
from train.program import Program

pytestmark = pytest.mark.timeout(300)
V5E = chips.TPUS["v5e"]


@pytest.fixture
def tpu_devices(monkeypatch, no_cache):
    """A function that returns the devices of a TPU topology by its name, which need not exist here."""
    pytest.importorskip("libtpu", reason="needs libtpu (the extra `plan`), which compiles for a TPU without one")
    for name, value in setup.WITHOUT_TPU.items():
        monkeypatch.setenv(name, value)
    return topology.devices


# Programs as text.


def scan_matmuls(x, matrices):
    return jax.lax.scan(lambda x, matrix: (jnp.tanh(x @ matrix), None), x, matrices)[0].sum()


def test_products_in_loops_count_as_often_as_they_run():
    arguments = jnp.ones((8, 16)), jnp.ones((5, 16, 16))
    lowered = jax.jit(jax.grad(scan_matmuls, argnums=1)).lower(*arguments)
    assert products.traced_flops(lowered.as_text(dialect="hlo")) == 3 * 5 * 2 * 8 * 16 * 16
    assert products.traced_flops(lowered.compile().as_text()) == 3 * 5 * 2 * 8 * 16 * 16


@pytest.mark.parametrize(
    "strides, padding, dilation, groups",
    [((1,), [(0, 0)], 1, 1), ((2,), [(3, 1)], 1, 1), ((1,), [(5, 5)], 3, 1), ((1,), [(2, 0)], 2, 4)],
)
def test_convolutions_have_the_flops_that_xla_counts(strides, padding, dilation, groups):
    """The TPU compiler writes products with batch axes as convolutions with padding and dilation."""
    call = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, lhs_dilation=(dilation,),
        feature_group_count=groups, dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip
    lowered = jax.jit(call).lower(jnp.ones((2, 11, 8)), jnp.ones((4, 8 // groups, 12)))
    assert products.traced_flops(lowered.as_text(dialect="hlo")) == lowered.cost_analysis()["flops"] > 0


def test_groups_are_the_same_in_every_form_of_text():
    expected = np.array([[0, 2], [1, 3], [4, 6], [5, 7]])
    for text in (
        "replica_groups={{0,2},{1,3},{4,6},{5,7}}, x",
        "replica_groups=[4,2]<=[2,2,2]T(0,2,1), x",
        "replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}, x",
    ):
        np.testing.assert_array_equal(hlo.groups(hlo.Instruction("x", (), "all-gather", (), "", text)), expected)


def test_what_runs_beside_a_product_is_waited_for_only_where_it_is_not_there_in_time():
    """A gather of 90 MB over one axis of a ring of 16, and a product of a quarter or of ten times that time."""
    gather = 90e6 * 15 / 16 / (2 * V5E.link) + 8 * estimate.HOP
    coords = np.stack([np.arange(16), np.zeros(16, int)], 1)
    machine = estimate.Machine(V5E, coords, np.zeros(16, int))

    def step_hlo(share: float) -> str:
        cycles = round(share * gather * V5E.clock)
        config = f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
        return f"""HloModule step
ENTRY %main (a: u8[5625000]) -> u8[90000000] {{
  %a = u8[5625000]{{0}} parameter(0)
  %start = (u8[5625000]{{0}}, u8[90000000]{{0}}) all-gather-start(%a), replica_groups=[1,16]<=[16], dimensions={{0}}
  %busy = u8[5625000]{{0}} fusion(%a), kind=kLoop, calls=%none, {config}
  ROOT %done = u8[90000000]{{0}} all-gather-done(%start)
}}
"""

    short, long = (estimate.estimate(step_hlo(share), machine) for share in (0.25, 10))
    assert short.total == pytest.approx(gather, rel=1e-3)
    assert short.exposed["all-gather"] == pytest.approx(0.75 * gather, rel=1e-3)
    assert long.total == pytest.approx(10 * gather, rel=1e-3) and not long.exposed["all-gather"]
    assert short.wire["all-gather"] == 90e6 * 15 / 16


@pytest.mark.parametrize(
    "opcode, result, sent",
    [
        ("all-gather", "f32[64]{0}", 256 * 3 / 4),
        ("all-gather-start", "(f32[16]{0}, f32[64]{0})", 256 * 3 / 4),
        ("all-reduce", "(f32[64]{0}, f32[64]{0})", 2 * 512 * 3 / 4),
        ("all-reduce-start", "(f32[64]{0}, f32[64]{0})", 2 * 512 * 3 / 4),
        ("reduce-scatter", "f32[16]{0}", 64 * 3),
        ("collective-permute-start", "(f32[64]{0}, f32[64]{0}, u32[], u32[])", 256),
    ],
)
def test_a_device_sends_what_a_ring_of_four_asks(opcode, result, sent):
    """Chan et al. 2007, table 1: (p - 1) / p of what is gathered or scattered, twice that of what is reduced."""
    pairs = "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}" if "permute" in opcode else "replica_groups=[1,4]<=[4]"
    text = f"HloModule m\nENTRY %main (a: f32[16]) -> f32[] {{\n  %x = {result} {opcode}(), {pairs}\n}}\n"
    machine = estimate.Machine(V5E, np.stack([np.arange(4), np.zeros(4, int)], 1), np.zeros(4, int))
    assert sum(estimate.estimate(text, machine).wire.values()) == pytest.approx(sent)


def test_slices_reduce_inside_first_and_send_each_other_what_is_left():
    """Of 64 MB on each device of two rings of four: three quarters go round a ring twice, a quarter crosses."""
    text = (
        "HloModule m\nENTRY %main (a: f32[16]) -> f32[] {\n  %x = f32[16000000]{0} all-reduce(), "
        "replica_groups=[1,8]<=[8]\n}\n"
    )
    machine = estimate.Machine(V5E, np.stack([np.tile(np.arange(4), 2), np.zeros(8, int)], 1), np.repeat([0, 1], 4))
    seconds = estimate.estimate(text, machine).seconds
    assert seconds["network"] == pytest.approx(2 * 48e6 / V5E.link + 16e6 / V5E.network, rel=0.01) and len(seconds) == 1


@pytest.mark.parametrize(
    "message, gib",
    [
        ("RESOURCE_EXHAUSTED: … Ran out of memory in memory space hbm. Used 16.50G of 15.75G hbm. Exceeded …", 16.5),
        ("RESOURCE_EXHAUSTED: … required for HLO temporaries (47.68G) exceeds available HBM (15.75G).", 47.68),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 33.00M of 32.00M vmem.", None),
    ],
)
def test_what_was_too_much_is_read_off_the_compilers_refusal(message, gib):
    assert refused_bytes(message) == (gib and gib * chips.GIB)


# Programs that the compiler made for TPUs.


def test_a_refused_program_says_how_much_it_wanted(tpu_devices):
    sharding = jax.sharding.SingleDeviceSharding(tpu_devices("v5e:1x1")[0])
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda x: x * 2).lower(jax.ShapeDtypeStruct((80_000, 80_000), jnp.float32, sharding=sharding)).compile()
    assert refused_bytes(str(error.value)) > 80_000 * 80_000 * 4


@pytest.mark.parametrize(
    "name, window, cap, width, value_width",
    [("v5e:2x2", None, None, 128, 128), ("v5p:2x2x1", 500, 50.0, 128, 64), ("v5e:2x2", 1026, None, 192, 128)],
)
def test_splash_states_the_flops_of_the_blocks_that_it_multiplies(name, window, cap, width, value_width, tpu_devices):
    """Two products forward and five backward of every block with a pair in it that causality and the window show."""
    length = 4096
    mesh = make_mesh({"data": 4}, tpu_devices(name))
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.P("data"))
        query, value = (
            jax.ShapeDtypeStruct((4, 2, length, size), jnp.bfloat16, sharding=split) for size in (width, value_width)
        )
        attention = kernels.attention_kernel("auto")

        def loss(*query_key_value):
            mask = kernels.AttentionMask(None, window=window)
            return attention(*query_key_value, mask, score_cap=cap).astype(jnp.float32).sum()

        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, query, value).compile().as_text()
    seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-(window or length), dtype=bool)
    stated_flops = sorted(int(flops) for flops in re.findall(r'"cost_estimate":\{"flops":"(\d+)"', text))
    expected = []
    for keys, widths in ((1024, width + value_width), (1024 if width <= 128 else 512, 3 * width + 2 * value_width)):
        visible_blocks = seen.reshape(length // 512, 512, length // keys, keys).any((1, 3)).sum()
        expected.append(2 * 2 * visible_blocks * 512 * keys * widths)
    assert stated_flops == sorted(expected)


@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1"])
def test_experts_multiply_every_row_once_forward_and_for_each_gradient(name, tpu_devices):
    """Six products of every row: were one of them dense, it would count eight times, for eight experts."""
    tokens, length, active, width, hidden, experts = 4, 128, 2, 128, 256, 8
    shapes = {"up": (experts, width, hidden), "down": (experts, hidden, width)}

    def loss(x_BTD, weight_BTK, matrices, chosen_BTK):
        return jnp.square(expert_mlp(x_BTD, chosen_BTK, weight_BTK, matrices, "silu").astype(jnp.float32)).sum()

    with jax.set_mesh(make_mesh({"data": 4}, tpu_devices(name))):
        split, whole = (jax.NamedSharding(jax.sharding.get_mesh(), axes) for axes in (jax.P("data"), jax.P()))
        x = jax.ShapeDtypeStruct((tokens, length, width), jnp.bfloat16, sharding=split)
        weight = jax.ShapeDtypeStruct((tokens, length, active), jnp.float32, sharding=split)
        matrices = {n: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole) for n, shape in shapes.items()}
        gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        text = gradients.lower(x, weight, matrices, weight.update(dtype=jnp.int32)).compile().as_text()
        machine = estimate.Machine.of(chips.TPUS[name.partition(":")[0]], list(jax.sharding.get_mesh().devices.flat))
    once = 2 * length * active * width * hidden
    stated_flops = [float(flops) for flops in re.findall(r'"cost_estimate":\{"flops":"(\d+)"', text)]
    assert stated_flops == [once] * 6 and estimate.estimate(text, machine).flops == 6 * once


def test_a_sharded_product_has_its_flops_and_its_bytes_on_the_wire(tpu_devices):
    """[4096, 8192] split over its rows by 16 devices, gathered whole: 15/16 of its bytes come to every device."""
    with jax.set_mesh(make_mesh({"data": 16}, tpu_devices("v5e:4x4"))):
        mesh = jax.sharding.get_mesh()
        split = jax.NamedSharding(mesh, jax.P("data"))
        x = jax.ShapeDtypeStruct((32768, 4096), jnp.bfloat16, sharding=split)
        weight = jax.ShapeDtypeStruct((4096, 8192), jnp.bfloat16, sharding=split)
        multiply = jax.jit(lambda x, weight: x @ jax.sharding.reshard(weight, jax.P()))
        text = multiply.lower(x, weight).compile().as_text()
    time = estimate.estimate(text, estimate.Machine.of(V5E, list(mesh.devices.flat)))
    assert time.flops == 2 * 32768 * 4096 * 8192 / 16
    assert dict(time.wire) == {"all-gather": pytest.approx(4096 * 8192 * 2 * 15 / 16)}
    assert time.flops / V5E.peak < time.total < 3 * time.flops / V5E.peak + time.busy["all-gather"]


def test_twice_the_layers_are_twice_the_work(tpu_devices):
    def step_time(layers: int) -> estimate.StepTime:
        experiment = experiments.resolve("llama:tiny", [f"model.layers.0.repeats={layers}", "data.length=128"], None)
        return compile_plan(experiment, tpu_devices("v5e:2x2")).step_time

    two, four, eight = map(step_time, (2, 4, 8))
    assert eight.flops - four.flops == pytest.approx(2 * (four.flops - two.flops), rel=0.02)
    assert eight.wire["all-gather"] - four.wire["all-gather"] == 2 * (four.wire["all-gather"] - two.wire["all-gather"])


def test_each_of_two_slices_gathers_what_one_alone_would(tpu_devices):
    """Weights, that is: no activation leaves its device where rows are split over two axes of the mesh."""

    def gathered_bytes(slices: int) -> float:
        settings = [f"mesh.replica={slices}", f"batch_size={8 * slices}", "data.length=128"]
        experiment = experiments.resolve("llama:tiny", settings, None)
        return compile_plan(experiment, tpu_devices("v5e:2x2", slices)).step_time.wire["all-gather"]

    assert gathered_bytes(2) == pytest.approx(gathered_bytes(1), rel=0.01)


@pytest.mark.slow(60)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("remat, microbatches", [("save_qkv", 1), ("minimal", 2)])
def test_memory_by_arithmetic_is_near_the_compilers(remat, microbatches, tpu_devices):
    """A quarter of Llama 3.2's 1B, 4 x 2048 tokens a device."""
    settings = [
        "model.layers.0.repeats=4", "model.vocab_size=32000", "data.length=2048", f"execution.remat={remat}",
        f"batch_size={64 * microbatches}", f"microbatches={microbatches}",
    ]  # fmt: skip
    devices = tpu_devices("v5e:4x4")
    plan = compile_plan(experiments.resolve("llama:1b", settings, None), devices)
    experiment = plan.experiment
    estimated = cost.estimate_memory(
        experiment.model, experiment.execution, plan.mesh, 64, 2048, accumulates=microbatches > 1
    )
    assert plan.fits and estimated.total == pytest.approx(plan.peak_bytes, rel=0.2)
    assert estimated.parameters == pytest.approx(plan.parameter_bytes, rel=0.01)
    assert estimated.optimizer == pytest.approx(plan.optimizer_bytes, rel=0.01)


def test_what_the_compiler_refuses_is_left_out_with_a_warning_that_names_it(tpu_devices, monkeypatch):
    accepted_flag, refused_flag = flags.TABLE["v5e"][0], flags.Flag("xla_tpu_no_such_thing", "true", "")
    monkeypatch.setitem(flags.TABLE, "v5e", (accepted_flag, refused_flag))
    with pytest.warns(UserWarning, match="xla_tpu_no_such_thing"):
        assert flags.compiler_options(tpu_devices("v5e:2x2")[0]) == {accepted_flag.name: accepted_flag.value}


@pytest.mark.parametrize("name", topology.EXAMPLES)
def test_every_flag_of_a_generation_is_known_to_its_compiler(name, tpu_devices):
    device = tpu_devices(f"{name}:2x2" + "x1" * (topology.AXES[name] - 2))[0]
    assert chips.generation(device.device_kind) == name
    assert flags.compiler_options(device) == {flag.name: flag.value for flag in flags.TABLE[name]}


def test_every_way_that_the_search_ranks_can_run(tpu_devices):
    devices = tpu_devices("v5e:2x4", 2)
    experiment = experiments.resolve("mixtral:tiny", ["batch_size=32", "data.length=128"], None)
    candidates = rank_candidates(experiment, devices)
    assert len({candidate.experiment.mesh for candidate in candidates}) > 10
    assert all(math.prod(vars(candidate.experiment.mesh).values()) == 16 for candidate in candidates)
    for candidate in candidates[::40]:
        Program(candidate.experiment, devices).check_fits()


def test_the_search_splits_neither_time_nor_features_of_an_lstm():
    made = experiments.resolve("llama:tiny", ["data.length=8192", "model.context=8192"], None)
    block = config.Block(config.LSTM(), None, placement="plain")
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, layers=(config.Stack((block,), 2),)))
    meshes = list(possible_meshes(made, 8, 1))
    assert {mesh.stage for mesh in meshes} == {1, 2}
    assert {(mesh.context, mesh.tensor) for mesh in meshes} == {(1, 1)}


# The command.


def test_the_page_and_the_keys_that_scripts_rely_on(skald, fresh):
    pytest.importorskip("libtpu")
    arguments = ["plan", "llama:tiny", "--topology", "v5e:2x2", "--set", "chip_hour=1.5"]
    arguments += ["--dump-hlo", skald.folder / "x.hlo"]
    plan = fresh.json(*arguments)
    keys = {
        "fits", "peak_bytes", "usable_bytes", "step_seconds", "tokens_per_second_per_device", "model_flops_utilization",
        "wire_bytes", "exposed_collective_seconds", "compile_seconds", "mesh", "devices", "bound_by", "jax", "libtpu",
    }  # fmt: skip
    assert keys <= plan.keys() and plan["fits"] and plan["devices"] == 4 and plan["mesh"]["data"] == 4
    vectors = 128 * (2 * 4 + 1)  # the norms' scales: whole on every device
    assert plan["parameter_bytes"] == 4 * ((plan["parameters"] - vectors) / 4 + vectors)
    tokens = plan["tokens_per_second_per_device"] * 4 * plan["step_seconds"]
    assert tokens == pytest.approx(8 * 128)
    assert plan["money_per_trillion_tokens"] == pytest.approx(1e12 / tokens * plan["step_seconds"] / 3600 * 4 * 1.5)
    assert sum(plan["seconds_by"].values()) == pytest.approx(plan["step_seconds"])
    assert (skald.folder / "x.hlo").read_text().startswith("HloModule")
    status, out, err = skald(*arguments)
    assert status == 0 and "fits" in out and "An estimate" in out and err == ""
    assert f"by libtpu {metadata.version('libtpu')} for jax {jax.__version__}\n" in out


def test_a_plan_for_the_machine_that_is_here(skald):
    """Microbatches are a loop of the program; without recomputation its FLOPs are the model's, and causality's other
    half."""
    settings = ["--set", "microbatches=4", "--set", "execution.remat=none"]
    plan = skald.json("plan", "llama:tiny", *settings)
    assert plan["fits"] and plan["step_seconds"] is None
    assert 1 <= plan["compiled_flops"] / plan["model_flops"] < 1.2


def test_wrong_topologies_are_refused_with_what_there_is(skald):
    pytest.importorskip("libtpu")
    wrong = {
        "v9:2x2": ["v9:2x2", "v5p:", "v6e:"],
        "v5e": ["v5e", "v5e:1x1 to 16x16"],
        "v5p:4x4": ["v5p:4x4", "v5p:2x2x1"],
        "v5e:3x7": ["v5e:3x7", "refuses"],
    }
    commands = [["plan", "llama:tiny", "--topology", name] for name in wrong]
    commands += [
        ["plan", "llama:tiny", "--slices", "2"],
        ["plan", "llama:tiny", "--dump-hlo", skald.folder / "none" / "x"],
        ["plan", "shakespeare", "--set", "model.vocab_size=0"],
    ]
    results = skald.run_many(commands)
    for (status, out, err), parts in zip(
        results, [*wrong.values(), ["--topology"], ["--dump-hlo"], ["model.vocab_size", "at least 1 here"]], strict=True
    ):
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert all(part in err for part in parts), err


def test_without_the_compiler_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(topology.TopologyError, match=r"uv pip install -c requirements.lock -e '.\[plan\]'"):
        topology.devices("v5e:2x2")


TOO_MUCH = ["plan", "llama:tiny", "--topology", "v5e:2x2", "--set", "batch_size=65536", "--set", "execution.remat=none"]


def test_what_does_not_fit_says_by_how_much_and_what_would(skald):
    pytest.importorskip("libtpu")
    plan = skald.json(*TOO_MUCH)
    assert not plan["fits"] and plan["peak_bytes"] > plan["usable_bytes"] and plan["step_seconds"] is None
    assert plan["fitting"]["bytes"] < plan["usable_bytes"]


@pytest.mark.slow(45)
def test_what_is_said_to_fit_does(skald):
    pytest.importorskip("libtpu")
    plan = skald.json(*TOO_MUCH)
    options = [argument for path, value in plan["fitting"]["set"].items() for argument in ("--set", f"{path}={value}")]
    assert skald.json(*TOO_MUCH, *options)["fits"]


def test_auto_recomputes_as_little_as_memory_allows():
    experiment = experiments.resolve(
        "llama:7b", ["data.length=2048", "batch_size=1024", "execution.dtype=bfloat16"], None
    )
    sizes = {name: tpu.memory for name, tpu in chips.TPUS.items()}
    assert auto.choose_remat(experiment, 256, sizes["v5e"]) == "save_qkv"
    assert auto.choose_remat(experiment, 256, sizes["v5p"]) in ("none", "minimal")
    assert auto.choose_remat(dataclasses.replace(experiment, batch_size=4096), 256, sizes["v5e"]) == "full"
