"""`skald bench`: what it says of its own figures, and the peers on PyTorch, in processes of their own."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import experiments
from launch.bench import history, likelihood, report
from launch.bench.arrivals import Arrival, decoding_figures
from launch.bench.decoding import saved_by_quantizing
from launch.bench.measure import spread_warnings
from launch.machine.load import LoadMeter
from launch.machine.processor import multiplies_bfloat16, processor, widest_instructions
from train import fields
from train.run import RunError

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the time of others in /proc")
MIXER = "model.layers.0.pattern.0.mixer"
SMALL_GPT = ["model.layers.0.repeats=2", "model.width=32"]
SMALL_GPT += [f"{MIXER}.heads=4", f"{MIXER}.kv_heads=4", f"{MIXER}.head_width=8"]


@pytest.fixture
def spinner():
    """The process of a loop that does nothing but use a core; the system ends it if the test does not."""
    process = subprocess.Popen(["timeout", "100", sys.executable, "-c", "while True: pass"])
    yield process
    process.terminate()
    process.wait()


# --- the load by others -----------------------------------------------------------------------------------------------


@linux
def test_a_process_that_is_not_ours_counts_as_others(spinner):
    """Two meters at the same time, one of which counts the loop as our own: whatever else runs here, they differ."""
    meters = LoadMeter([os.getpid()]), LoadMeter([os.getpid(), int(child_of(spinner.pid))])
    time.sleep(1)
    load, load_without = (meter.load() for meter in meters)
    assert load.others > load_without.others + 0.25
    assert load.busy and f"of {load.cores} core" in str(load)


def child_of(pid: int) -> str:
    """The first child that a process has, once it has one."""
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        time.sleep(0.01)
    return children[0]


@linux
def test_a_process_is_not_busy_by_its_own_threads():
    """Two meters at the same time, of which one does not know this process: they differ by what it used."""
    meters, start = (LoadMeter([os.getpid()]), LoadMeter([])), os.times()
    matrix = np.ones((400, 400))
    until = time.monotonic() + 1.5

    def multiply():
        while time.monotonic() < until:
            matrix @ matrix

    threads = [threading.Thread(target=multiply) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    ours, unknown = (meter.load() for meter in meters)
    end = os.times()
    used = (end.user + end.system - start.user - start.system) / (end.elapsed - start.elapsed)
    assert used > 0.2 and unknown.others - ours.others == pytest.approx(used, abs=0.15)


def write_ticks(proc, own: int, user: int, idle: int, stolen: int) -> None:
    """Files as Linux has them, where every core of this process has the same ticks and process 1 had `own` of them."""
    cores = "".join(f"cpu{core} {user} 0 0 {idle} 0 0 0 {stolen} 0 0\n" for core in os.sched_getaffinity(0))
    (proc / "1").mkdir(exist_ok=True)
    (proc / "stat").write_text(f"cpu 9 9 9 9 9 9 9 9 9 9\n{cores}cpu4095 9 9 9 9 9 9 9 9 9 9\nintr 1 2\n")
    (proc / "1" / "stat").write_text(f"1 (a ) b c d e f) S 0 1 1 0 -1 4 9 9 9 9 {own} 0 0 0 20 0 1 0 3\n")


@linux
@pytest.mark.parametrize(
    "own, stolen, others, busy",
    [(200, 0, 0.0, False), (140, 0, 0.3, True), (196, 0, 0.02, False), (200, 50, 0.0, True)],
)
def test_what_the_system_counts_is_split_into_ours_others_and_stolen(tmp_path, own, stolen, others, busy):
    cores = len(os.sched_getaffinity(0))
    write_ticks(tmp_path, 100, 100, 100, 100)
    meter = LoadMeter([1], tmp_path)
    write_ticks(tmp_path, 100 + own * cores, 300, 100 - stolen, 100 + stolen)
    load = meter.load()
    assert load.others == pytest.approx(others * cores)
    assert load.stolen == pytest.approx(stolen / 200 * cores)
    assert load.busy == busy


@linux
def test_where_nothing_is_counted_nothing_is_said(tmp_path):
    assert LoadMeter([1], tmp_path).load() is None


# --- what the figures say of themselves -------------------------------------------------------------------------------


@linux
def test_a_bench_on_a_busy_machine_says_so_and_remembers(skald, spinner):
    command = ["bench", "decode", skald.config, "--runs", "3", "--batch", "1"]
    result = skald.json(*command)
    status, out, err = skald(*command)
    assert len(result["runs"]) == len(result["limits"]) == 3
    assert result["limit_tokens_per_second"] == pytest.approx(np.median(result["limits"]))
    share = result["decoding_tokens_per_second"] / result["limit_tokens_per_second"]
    assert result["share_of_limit"] == pytest.approx(share, abs=1e-3)
    assert result["processor"] == processor()
    assert any(text.startswith("busy machine: others used ") for text in result["warnings"])
    assert status == 0 and "skald: busy machine: others used " in err
    assert out.startswith(f"processor: {processor()}\n") and out.count("processor") == 1
    before = out.partition(" on a busy machine: ")[2]
    assert before.startswith(f"{result['decoding_tokens_per_second']:,.0f} tokens/s; ")
    assert all(len(line) <= 120 for line in out.splitlines())


def test_a_ratio_from_a_busy_machine_says_so_beside_it():
    peer = {"name": "A peer", "tokens_per_second": 5.0, "ratios": {"tokens_per_second": 2.0}}
    result = {"what": "train", "config": "a config", "batch": 1, "tokens_per_second": 10.0, "peers": [peer]}
    result |= {"limit_tokens_per_second": 20.0, "share_of_limit": 0.5, "last": None}
    for busy, end in (("others used 0.9 of 2 cores", " (busy machine: others used 0.9 of 2 cores)"), (None, "")):
        lines = report.page({**result, "busy": busy}, "tokens_per_second").splitlines()
        assert lines[1] == f"  A peer: 5 tokens/s; ratio 2.00{end}"


def test_runs_that_do_not_agree_are_told_with_their_side():
    def runs(*speeds):
        return [{"tokens_per_second": speed} for speed in speeds]

    sides = {"Skald": runs(100, 95, 105), "A peer": runs(100, 80, 101), "the limit": runs(7.0)}
    (warning,) = spread_warnings(sides, "tokens_per_second")
    assert "A peer" in warning and "21%" in warning


@given(
    prompt=st.floats(0.001, 10), step=st.floats(0.001, 1), chunks=st.lists(st.integers(1, 16), min_size=2, max_size=9),
    batch=st.integers(1, 8),
)  # fmt: skip
def test_decoding_alone_is_timed_whatever_the_prompt_takes_and_however_tokens_come(prompt, step, chunks, batch):
    arrivals, count = [], 0
    for chunk in chunks:
        count += chunk
        arrivals.append(Arrival(prompt + count * step, chunk * batch))
    figures = decoding_figures(arrivals, batch)
    assert figures["decoding_tokens_per_second"] == pytest.approx(batch / step)
    assert figures["tokens_per_second"] == pytest.approx(batch * count / (prompt + count * step))
    assert figures["first_tokens"] == chunks[0]
    assert figures["first_token_seconds"] == pytest.approx(prompt + chunks[0] * step)


@pytest.mark.parametrize(
    "flags, name",
    [
        ("sse2 avx avx2 avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16 amx_int8", "AMX with bf16 and int8"),
        ("sse2 avx avx2 avx512f avx512bw avx512_bf16 avx512_vnni", "AVX-512 with bf16 and vnni"),
        ("sse2 avx avx2 fma", "AVX2"),
        ("fp asimd evtstrm", "NEON"),
        ("sse2", "no wide instructions known"),
    ],
)
def test_the_widest_instructions_are_named(flags, name):
    assert widest_instructions(set(flags.split())) == name


@linux
def test_a_processor_is_named_as_the_system_names_it():
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    except FileNotFoundError:
        pytest.skip("no lscpu")
    name = next(line.partition(":")[2].strip() for line in lines.splitlines() if line.startswith("Model name"))
    if "model name" in Path("/proc/cpuinfo").read_text():
        assert processor().startswith(f"{name}, ")


# --- the last figures -------------------------------------------------------------------------------------------------


@pytest.fixture
def identity(tmp_path, monkeypatch):
    monkeypatch.setenv("SKALD_CACHE", str(tmp_path / "cache"))
    experiment = experiments.resolve("shakespeare:nanogpt", [], None)
    return history.identity("train", experiment, {"batch": 12}, "a processor")


def test_the_last_figures_of_the_same_bench_are_found(identity):
    assert history.last(identity) is None
    for speed in (1.0, 2.0):
        history.append(identity, {"tokens_per_second": speed}, None)
    history.append({**identity, "processor": "another"}, {"tokens_per_second": 3.0}, None)
    other = experiments.resolve("shakespeare:nanogpt", ["batch_size=8"], None)
    history.append(history.identity("train", other, {"batch": 12}, "a processor"), {"tokens_per_second": 4.0}, None)
    assert history.last(identity)["figures"] == {"tokens_per_second": 2.0}


@pytest.mark.parametrize("torn", ['{"date": "2026-11-2', "\udcff\x00", "[1]", "{}", '{"figures": 3}\n\n'])
def test_a_torn_line_is_passed_over_and_spoils_no_other(identity, torn):
    history.append(identity, {"tokens_per_second": 1.0}, "others used 1.0 of 2 cores")
    with history.history_file().open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(torn)
    assert history.last(identity)["figures"] == {"tokens_per_second": 1.0}
    history.append(identity, {"tokens_per_second": 2.0}, None)
    assert history.last(identity)["figures"] == {"tokens_per_second": 2.0}


def test_benches_at_the_same_time_lose_no_line(identity):
    def append_many():
        for _ in range(50):
            history.append(identity, {"tokens_per_second": 1.0}, None)

    threads = [threading.Thread(target=append_many) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    lines = history.history_file().read_text().splitlines()
    assert len(lines) == 200 and all(json.loads(line)["what"] == "train" for line in lines)


# --- decoding, and the peers ------------------------------------------------------------------------------------------


@pytest.mark.slow(10)
def test_the_first_token_is_timed_for_prompts_of_three_lengths(skald):
    result = skald.json("bench", "decode", skald.config, "--latency", "--runs", "1")
    assert [case["prompt"] for case in result["cases"]] == [16, 256, 1024]
    for case in result["cases"]:
        assert case["new"] == 32 and case["batch"] == 1
        assert 0 < case["first_token_seconds"] < 32 / case["tokens_per_second"]
        assert case["share_of_limit"] == pytest.approx(
            case["decoding_tokens_per_second"] / case["limit_tokens_per_second"], abs=1e-3
        )


@pytest.mark.slow(15)
def test_weights_in_few_bits_are_timed_beside_those_as_they_are_and_against_their_own_limit(skald):
    result = skald.json("bench", "decode", skald.config, "--quantize", "int8", "--batch", "2", "--runs", "2")
    (case,) = result["cases"]
    assert case["batch"] == 2 and {side: len(speeds) for side, speeds in case["runs"].items()} == {"ours": 2, "peer": 2}
    assert case["ratio"] == pytest.approx(np.median(np.divide(case["runs"]["ours"], case["runs"]["peer"])), abs=1e-3)
    _, text, _ = skald("bench", "decode", skald.config, "--quantize", "int4", "--batch", "1", "--runs", "1")
    assert "tokens/s with weights in int4; as they are" in text


@pytest.mark.slow(30)
def test_log_likelihoods_are_timed_beside_lm_evaluation_harness_whose_numbers_they_are(skald):
    for package in ("lm_eval", "torch", "transformers"):
        pytest.importorskip(package, reason=f"the peer needs {package}")
    settings = [word for setting in [*SMALL_GPT, "model.vocab_size=600"] for word in ("--set", setting)]
    command = ["bench", "likelihood", "gpt2:small", *settings, "--items", "6", "--runs", "2"]
    result = skald.json(*command, "--against", "harness")  # it ends with an error where the numbers differ
    assert result["items"] == 6 and len(result["runs"]) == len(result["against"]["runs"]) == 2
    ratio = np.median(result["runs"]) / np.median(result["against"]["runs"])
    assert result["ratio"] == pytest.approx(ratio, abs=1e-3) and "lm-evaluation-harness" in result["against"]["name"]


def test_sides_whose_log_likelihoods_differ_are_an_error():
    sides = {"Skald": {"nats": 70.0}, "A peer": {"nats": 70.001}}
    likelihood.check_same(sides, 2)
    with pytest.raises(RunError, match=r"Skald 35\.000000, A peer 35\.500000"):
        likelihood.check_same(sides | {"A peer": {"nats": 71.0}}, 2)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_weights_in_few_bits_save_what_their_numbers_are_shorter(quantize):
    """On a CPU, whose panels have 64 outputs, of eight bits each; weights below 2 ** 16 numbers stay in float32."""
    small = experiments.resolve("gpt2:small", [*SMALL_GPT, f"execution.quantize={quantize}"], None)
    hidden = small.model.layers[0].pattern[0].feed_forward.width
    numbers = 32 * -(-small.model.vocab_size // 64) * 64 + 2 * (32 * hidden + hidden * 64)
    assert saved_by_quantizing(small, 4) == 3 * numbers


def gpt(name: str, *settings: str) -> dict:
    """The JSON of a small experiment with a config's kind of layers."""
    return fields.to_json(experiments.resolve(name, [*SMALL_GPT, *settings], None))


def test_hugging_faces_decoder_is_timed_token_by_token():
    pytest.importorskip("transformers")
    from launch.bench import huggingface

    arrivals = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface, "decoding_figures", lambda given, batch: arrivals.extend(given) or {"batch": batch})
        huggingface.decoding(gpt("shakespeare:nanogpt"), batch=3, prompt=60, new=7)()  # longer than its context
    assert [arrival.tokens for arrival in arrivals] == [3] * 7
    assert sorted(arrivals) == arrivals and arrivals[0].seconds > 0


@pytest.mark.parametrize("name", ["shakespeare:nanogpt", "gpt2:small"])
def test_the_plain_gpt_computes_what_hugging_faces_does(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from launch.bench import huggingface
    from launch.bench.gpt_shape import gpt_shape
    from launch.bench.torch_gpt import GPT

    model = gpt(name)["model"]
    theirs, ours = huggingface.model(model).eval(), GPT(gpt_shape(model)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if name == "shakespeare:nanogpt":  # without biases
        [torch.nn.init.zeros_(parameter) for key, parameter in theirs.named_parameters() if key.endswith("bias")]
    with torch.no_grad():
        copy_weights(theirs.transformer, ours)
        tokens = torch.randint(0, 65, (2, 20))
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-4)
        expected = theirs(tokens, labels=tokens).loss
        torch.testing.assert_close(
            torch.nn.functional.cross_entropy(ours(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()), expected
        )


def copy_weights(theirs, ours) -> None:
    def copy(source, target, transpose=False):
        target.weight.copy_(source.weight.T if transpose else source.weight)
        if target.bias is not None:
            target.bias.copy_(source.bias)

    ours.embedding.weight.copy_(theirs.wte.weight)
    ours.positions.weight.copy_(theirs.wpe.weight)
    copy(theirs.ln_f, ours.norm)
    for source, target in zip(theirs.h, ours.blocks, strict=True):
        copy(source.ln_1, target.mixer_norm)
        copy(source.attn.c_attn, target.mixer.query_key_value, transpose=True)
        copy(source.attn.c_proj, target.mixer.output, transpose=True)
        copy(source.ln_2, target.feed_forward_norm)
        copy(source.mlp.c_fc, target.feed_forward.up, transpose=True)
        copy(source.mlp.c_proj, target.feed_forward.down, transpose=True)


def test_a_step_of_the_plain_peer_has_the_same_gradient_in_microbatches_clips_it_and_decays_matrices_alone():
    torch = pytest.importorskip("torch")
    from launch.bench import torch_peer
    from launch.bench.gpt_shape import gpt_shape
    from launch.bench.torch_gpt import GPT

    experiment = experiments.resolve("shakespeare:nanogpt", SMALL_GPT, None)
    batch, gradients = (torch.randint(0, 65, (4, 16)), torch.randint(0, 65, (4, 16))), []
    for microbatches, clip in ((1, None), (2, None), (2, 0.1)):
        torch.manual_seed(0)
        network = GPT(gpt_shape(fields.to_json(experiment)["model"]))
        optimizer = torch_peer.make_optimizer(network, experiment.optimizer)
        torch_peer.train_step(network.loss, optimizer, batch, microbatches, clip)
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    whole, in_parts, clipped = gradients
    torch.testing.assert_close(in_parts, whole)
    torch.testing.assert_close(clipped, whole * 0.1 / whole.norm())
    assert [{p.dim() for p in group["params"]} for group in optimizer.param_groups] == [{2}, {1}]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


BLOCK = ("layers", 0, "pattern", 0)


@pytest.mark.parametrize(
    "path, value",
    [
        ((*BLOCK, "mixer", "rope"), {"is": "Rope"}),
        ((*BLOCK, "mixer", "window"), 8),
        ((*BLOCK, "mixer", "kv_heads"), 2),
        ((*BLOCK, "mixer", "is"), "LSTM"),
        ((*BLOCK, "feed_forward"), None),
        ((*BLOCK, "feed_forward", "gated"), True),
        ((*BLOCK, "feed_forward", "activation"), "relu_squared"),
        ((*BLOCK, "norm", "kind"), "rms"),
        ((*BLOCK, "placement"), "sandwich"),
        ((*BLOCK, "token_shift"), 0.5),
        (("positions",), None),
        (("tied",), False),
        (("embedding_norm",), {"is": "Norm"}),
        (("layers", 1), None),
    ],
    ids=lambda x: x[-1] if isinstance(x, tuple) else "",
)
def test_a_model_that_is_no_gpt_is_refused_by_the_peer(path, value):
    from launch.bench.gpt_shape import gpt_shape

    model = inner = gpt("shakespeare:nanogpt")["model"]
    gpt_shape(model)
    model["layers"] += model["layers"] if path == ("layers", 1) else []
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match="shakespeare:nanogpt"):
        gpt_shape(model)


@pytest.mark.slow(40)
def test_training_is_compared_with_plain_pytorch_eager_and_compiled(skald):
    pytest.importorskip("torch")
    result = bench_against_torch(skald)
    left_out = any("compiled is left out" in warning for warning in result["warnings"])
    assert torch_modes(result) == (with_bfloat16("eager") if left_out else with_bfloat16("eager", "compiled"))
    fastest = max(peer["tokens_per_second"] for peer in result["peers"])
    assert result["against"]["tokens_per_second"] == fastest
    assert result["ratio"] == pytest.approx(result["tokens_per_second"] / fastest, abs=1e-2)


@pytest.mark.slow(25)
def test_without_a_compiler_pytorch_runs_eager_and_the_other_is_told(skald):
    pytest.importorskip("torch")
    result = bench_against_torch(skald.with_environment(CXX="/nowhere/g++"))
    assert torch_modes(result) == with_bfloat16("eager")
    told = [warning for warning in result["warnings"] if warning.startswith("PyTorch compiled is left out: ")]
    assert len(told) == 1 and "C++" in told[0]


def torch_modes(result: dict) -> list[str]:
    """What stands behind PyTorch's version in the peers' names."""
    return [peer["name"].split(maxsplit=2)[2] for peer in result["peers"]]


def with_bfloat16(*modes: str) -> list[str]:
    """The modes, and each with products in bfloat16 where our own side has them."""
    return [*modes, *(f"{mode}, products in bfloat16" for mode in modes if multiplies_bfloat16())]


def bench_against_torch(skald) -> dict:
    settings = [word for setting in SMALL_GPT for word in ("--set", setting)]
    return skald.json("bench", "train", "--against", "torch", "--runs", "1", "--seconds", "0.2", *settings)


def test_options_that_do_not_go_together_are_refused(skald):
    commands = {
        ("bench", "data", "--latency"): "--latency: it goes with decode alone",
        ("bench", "decode", "--seconds", "1"): "--seconds: it goes with train and data",
        ("bench", "decode", "--against", "torch"): "--against torch: the peer of decode is hf",
        ("bench", "train", "--batch", "4"): "--batch: it goes with decode and data",
        ("bench", "train", "--length", "4"): "--length: it goes with data",
        ("bench", "decode", "--items", "3"): "--items: it goes with likelihood",
        ("bench", "likelihood", "--batch", "3"): "--batch: it goes with decode and data",
        ("bench", "likelihood", "shakespeare"): "model.vocab_size 65: this bench's tokenizer needs 257 at least",
        ("bench", "train", "--quantize", "int8"): "--quantize: it goes with decode alone",
        ("bench", "decode", "--engine", "--quantize", "int4"): "--engine and --quantize: one at a time",
        ("bench", "decode", "--latency", "--invariant"): "--latency: it goes with decode alone, without --batch, --inv",
    }
    for command, message in commands.items():
        status, out, err = skald(*command)
        assert (status, out) == (2, "") and err.startswith(f"skald: {message}")
