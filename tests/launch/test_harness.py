"""`skald evaluate --harness`: tasks of local files, offline, against sums over logits and the package's own HFLM."""

import copy
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import gpt2
from data.errors import DataError
from launch.api import load
from launch.bench.likelihood import made_up_items, train_tokenizer, write_run
from launch.commands.harness import metric_lines
from launch.inference.likelihood import encode_continuation
from model.config import Init

pytest.importorskip("lm_eval", reason="lm_eval is not installed (pip install 'skald[harness]')")
pytestmark = pytest.mark.timeout(300)
TEXTS = [
    "We are accounted poor citizens, the patricians good. What authority surfeits on would relieve us:" * 2,
    "Speak, speak.",
]
TASK = """task: made_up_{name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
metric_list: [{metrics}]
"""
KINDS = {  # of a task: its output_type, its metrics, what its file says besides
    "choices": (
        "multiple_choice",
        "{metric: acc}, {metric: acc_norm}",
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n',
    ),
    "rolling": (
        "loglikelihood_rolling",
        "{metric: word_perplexity}, {metric: bits_per_byte}",
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\n',
    ),
    "writing": (
        "generate_until",
        "{metric: exact_match}",
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        'generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 6}\n',
    ),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of GPT-2's shape with random weights, whose probabilities are far from uniform."""
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = train_tokenizer(folder, 300)
    model = replace(gpt2.gpt2(2, 32, 4), vocab_size=300, context=32, init=Init(embedding=0.5, weight=0.3, residual=0.2))
    write_run(folder / "run", model, tokenizer)
    return folder / "run"


@pytest.fixture(scope="module")
def run(run_folder):
    return load(str(run_folder))


@pytest.fixture(scope="module")
def examples(run) -> dict[str, list[dict]]:
    """The data of each task. The answers of "writing" are what the run writes, but for one."""
    items = made_up_items(run.tokenizer, 8)
    prompts = ["First Citizen:", "the", items[0][0]]
    return {
        "choices": [
            {"question": question[:40], "choices": ["a", *answers], "answer": i % 3}
            for i, (question, answers) in enumerate(items)
        ],
        "rolling": [{"text": text} for text in TEXTS],
        "writing": [{"question": prompt, "answer": greedy(run, prompt)} for prompt in prompts]
        + [{"question": "the", "answer": "no such text"}],
    }


@pytest.fixture(scope="module")
def tasks(examples, tmp_path_factory):
    """A folder of task files."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, lines in examples.items():
        write_task(folder, name, "".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_task(folder, name: str, lines: str, kind: str | None = None) -> None:
    output_type, metrics, rest = KINDS[kind or name]
    data = folder / f"{name}.jsonl"
    data.write_text(lines)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=output_type, metrics=metrics) + rest)


def logits(run, ids: list[int]) -> np.ndarray:
    """float64 [T, V]; in rows of one length, so that one program computes them all: later tokens change nothing."""
    padded = [*ids, *[0] * (run.trained_length - len(ids))]
    return np.asarray(run.logits([padded])[0, : len(ids)], np.float64)


def log_p(run, ids: list[int], count: int) -> float:
    """The log-probability of the last `count` of some ids, in nats, from the logits of them all."""
    ids = ids[-run.trained_length - 1 :]
    logits_TV = logits(run, ids[:-1])[-count:]
    log_p_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    return float(log_p_TV[range(count), ids[-count:]].sum())


def greedy(run, prompt: str) -> str:
    """Six tokens at most, each the most likely one, up to a stop text; of a long prompt the context's last 26."""
    ids = run.tokenizer.encode(prompt)[-26:]
    new = []
    while len(new) < 6:
        new.append(int(logits(run, ids + new)[-1].argmax()))
        text = run.tokenizer.decode(new)
        if new[-1] == run.tokenizer.end_id or "e" in text or "\n" in text:
            break
    return text.split("e")[0].split("\n")[0].removesuffix("<|endoftext|>")


def rolling(run, text: str) -> float:
    """The log-probability of a text in windows of the context: the first stands behind the start token, and the last is
    as long as the others, so that its targets have as much before them as there is room for."""
    ids = [run.tokenizer.start_id, *run.tokenizer.encode(text)]
    total, done = 0.0, 1
    while done < len(ids):
        stop = min(done + run.trained_length, len(ids))
        total += log_p(run, ids[max(0, stop - run.trained_length - 1) : stop], stop - done)
        done = stop
    return total


def test_tasks_of_local_files_have_the_metrics_of_the_models_own_logits(skald, run, run_folder, tasks, examples):
    names = ",".join(f"made_up_{name}" for name in KINDS)
    found = skald.json("evaluate", run_folder, "--harness", names, "--include", tasks)
    scores = found["tasks"]
    right, right_by_length = [], []
    for example in examples["choices"]:
        pairs = [(example["question"], f" {choice}") for choice in example["choices"]]
        encoded = [encode_continuation(run.tokenizer, *pair) for pair in pairs]
        values = np.array([log_p(run, [*e.prompt, *e.continuation], len(e.continuation)) for e in encoded])
        right.append(values.argmax() == example["answer"])
        lengths = [len(choice) for choice in example["choices"]]
        right_by_length.append((values / lengths).argmax() == example["answer"])
    assert scores["made_up_choices"]["acc"] == np.mean(right) != np.mean(right_by_length)
    assert scores["made_up_choices"]["acc_norm"] == np.mean(right_by_length)
    total, text_bytes = sum(rolling(run, text) for text in TEXTS), sum(len(text.encode()) for text in TEXTS)
    assert len(run.tokenizer.encode(TEXTS[0])) > 2 * run.trained_length
    assert scores["made_up_rolling"]["bits_per_byte"] == pytest.approx(-total / text_bytes / math.log(2), rel=1e-5)
    words = sum(len(text.split()) for text in TEXTS)
    assert scores["made_up_rolling"]["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert scores["made_up_writing"]["exact_match"] == 0.75 and len({e["answer"] for e in examples["writing"]}) == 4
    for name, values in scores.items():
        examples_of_task = examples[name.removeprefix("made_up_")]
        assert values["examples"] == len(examples_of_task) and values["harness"].startswith("0.")
        kept = [json.loads(line) for line in Path(values["results"]).read_text().splitlines()]
        assert [line["doc"] for line in kept] == examples_of_task
        if "acc" in values:
            assert [line["acc"] for line in kept] == right
    table = [line.split() for line in metric_lines(scores)]
    assert table[0] == ["task", "examples", "metric", "value"]
    error = f"{scores['made_up_choices']['acc_stderr']:.4f}"
    assert table[1] == ["made_up_choices", "8", "acc", f"{np.mean(right):.4f}", "±", error]


def test_groups_and_tags_have_their_tasks_metrics_and_those_that_they_aggregate(run, tasks, examples, tmp_path):
    from lm_eval.tasks import TaskManager

    from launch.inference.harness import evaluate_tasks
    from launch.inference.harness_tasks import load

    halves = {"first": examples["choices"][:2], "second": examples["choices"][2:]}
    for name, lines in halves.items():
        write_task(tmp_path, name, "".join(json.dumps(line) + "\n" for line in lines), "choices")
    (tmp_path / "second.yaml").write_text("tag: made_up_tag\n" + (tmp_path / "second.yaml").read_text())
    (tmp_path / "group.yaml").write_text("group: made_up_group\ntask: [made_up_first, made_up_mean]\n")
    (tmp_path / "mean.yaml").write_text(
        "group: made_up_mean\ntask: [made_up_second]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    )
    (whole,) = evaluate_tasks(run, ["made_up_choices"], str(tasks), tmp_path / "results").values()
    found = evaluate_tasks(run, ["made_up_group"], str(tmp_path), tmp_path / "results")
    assert list(found) == ["made_up_first", "made_up_second", "made_up_mean"]
    parts = [found[f"made_up_{name}"] for name in halves]
    assert sum(part["acc"] * part["examples"] for part in parts) == pytest.approx(whole["acc"] * whole["examples"])
    assert found["made_up_mean"]["acc"] == parts[1]["acc"] and found["made_up_mean"]["examples"] == 6
    tagged = evaluate_tasks(run, ["made_up_tag"], str(tmp_path), tmp_path / "results")
    assert tagged == {"made_up_second": parts[1]}
    (tmp_path / "typo.yaml").write_text("group: made_up_typo\ntask: [made_up_first, made_up_third]\n")
    with pytest.raises(DataError, match=r"made_up_typo \(.*typo.yaml\): there is no task 'made_up_third'"):
        load(TaskManager(include_path=str(tmp_path), include_defaults=False), "made_up_typo")


@pytest.fixture(scope="module")
def their_model(run, tmp_path_factory):
    """lm_eval's own Hugging Face model, of the exported checkpoint."""
    pytest.importorskip("torch", reason="compares with lm_eval's HFLM, on PyTorch")
    pytest.importorskip("transformers", reason="compares with lm_eval's HFLM, of transformers")
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("exported") / "run"
    run.export(folder)
    return HFLM(str(folder), device="cpu", batch_size=4)


DRAWS = [  # a task's options, and the chain that they come to; None: refused by both
    ({"temperature": 0.8}, "temperature=0.8"),
    ({"temperature": 0.8, "do_sample": False}, "greedy"),
    ({"temperature": 0.0, "top_p": 0.9}, "greedy"),
    ({"do_sample": True, "temperature": 1.0, "top_k": 5, "top_p": 0.75}, "top_k=5,top_p=0.75"),
    ({}, "greedy"),
    ({"do_sample": True}, None),
    ({"do_sample": True, "temperature": 0.0}, None),
]


@pytest.mark.parametrize(("options", "chain"), DRAWS)
def test_text_is_drawn_where_and_as_the_packages_own_model_draws_it(run, their_model, monkeypatch, options, chain):
    """Against the config that transformers resolves for what HFLM passes to it."""
    from lm_eval.api.instance import Instance

    from launch.inference.harness_generation import text_request
    from train.fields import ConfigError

    model, resolved = their_model.model, []
    prepare = model._prepare_generation_config
    monkeypatch.setattr(
        model, "_prepare_generation_config", lambda *a, **k: resolved.append(prepare(*a, **k)) or resolved[-1]
    )
    own = {"until": ["\n"], "max_gen_toks": 2, **options}
    request = Instance("generate_until", {}, ("the", own), 0)
    if chain is None:
        with pytest.raises(ValueError, match="strictly positive"):
            their_model.generate_until([request])
        with pytest.raises(ConfigError, match=r"write temperature: 1\.0, or do_sample: false"):
            text_request(run, "the", own)
        return
    their_model.generate_until([request])
    theirs = resolved[0][0]
    assert text_request(run, "the", own).sampler == chain
    assert theirs.do_sample == (chain != "greedy")
    if theirs.do_sample:
        values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | dict(part.split("=") for part in chain.split(","))
        assert {name: getattr(theirs, name) for name in values} == {name: float(x) for name, x in values.items()}


def test_repeated_draws_differ_and_an_import_draws_as_its_generation_config_says(run):
    from lm_eval.api.instance import Instance

    from launch.inference.harness import HarnessModel
    from launch.inference.harness_generation import text_request

    request = Instance("generate_until", {}, ("the", {"until": [], "max_gen_toks": 8, "temperature": 1.0}), 0)
    assert len(set(HarnessModel(run).generate_until([request] * 3))) == 3
    imported = copy.copy(run)
    imported.metadata = run.metadata | {"huggingface": {"generation_config": {"repetition_penalty": 1.5}}}
    drawn = text_request(imported, "the", {"temperature": 0.5, "num_beams": 1}).sampler
    assert drawn == "repetition_penalty=1.5,temperature=0.5,top_k=50"  # transformers cuts to 50 where none is named


def test_the_packages_own_model_gives_the_same_for_the_exported_checkpoint(run, their_model, tasks):
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    from launch.inference.harness import HarnessModel

    names, index = [f"made_up_{name}" for name in KINDS], TaskManager(include_path=str(tasks), include_defaults=False)
    models = {"ours": HarnessModel(run), "theirs": their_model}
    found = {
        name: evaluator.simple_evaluate(model, tasks=names, task_manager=index, bootstrap_iters=0)
        for name, model in models.items()
    }
    for task in names:
        assert found["ours"]["results"][task].keys() == found["theirs"]["results"][task].keys()
        for ours, theirs in zip(found["ours"]["samples"][task], found["theirs"]["samples"][task], strict=True):
            assert ours["arguments"] == theirs["arguments"]
            for (own,), (other,) in zip(ours["resps"], theirs["resps"], strict=True):
                if isinstance(own, str):
                    assert own == other
                else:
                    assert np.allclose(own, other, atol=1e-3)


def test_wrong_names_and_empty_data_are_one_line(skald, run_folder, tasks, tmp_path):
    write_task(tmp_path, "empty", "", "choices")
    write_task(tmp_path, "beams", json.dumps({"question": "the", "answer": "a"}), "writing")
    beams = tmp_path / "beams.yaml"
    beams.write_text(beams.read_text().replace("max_gen_toks", "num_beams"))
    for name, field in (("field", "question"), ("right", "{{answer}}")):
        write_task(tmp_path, name, json.dumps({"question": "the", "answer": "a"}), "writing")
        file = tmp_path / f"{name}.yaml"
        file.write_text(file.read_text().replace(field, "{{nosuch}}" if name == "right" else "nosuch"))
    group = "group: made_up_group\ntask: [made_up_beams, made_up_field]\n"
    (tmp_path / "group.yaml").write_text(group)
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "group.yaml").write_text(group.replace(", made_up_field", ""))
    shutil.copy(beams, tmp_path / "twice")
    (tmp_path / "missing.yaml").write_text((tmp_path / "empty.yaml").read_text().replace("empty", "missing"))
    cases = {
        ("--harness", "made_up_choice", "--include", tasks): (2, "has such a task; the nearest are made_up_choices"),
        ("--harness", "made_up_empty", "--include", tmp_path): (1, "no example in its data"),
        ("--harness", "made_up_missing", "--include", tmp_path): (1, "missing.jsonl"),
        ("--harness", "made_up_beams", "--include", tmp_path): (2, "generation_kwargs: no 'num_beams'"),
        ("--harness", "made_up_group", "--include", tmp_path): (
            1,
            f"made_up_field ({tmp_path}/field.yaml): a template: 'nosuch' is undefined; name a field of its data",
        ),
        ("--harness", "made_up_right", "--include", tmp_path): (
            1,
            f"made_up_right ({tmp_path}/right.yaml): a template: 'nosuch' is undefined; ",
        ),
        ("--harness", "made_up_group,made_up_beams", "--include", tmp_path / "twice"): (
            2,
            "made_up_beams is in made_up_group and in made_up_beams; name one",
        ),
        ("--harness", ""): (2, "--harness names no task"),
        ("--harness", "made_up_choices", "--include", tasks, "--results", tasks / "choices.yaml"): (
            1,
            "can't write there",
        ),
        ("--harness", "made_up_choices", "--include", tmp_path / "nowhere"): (2, "no such folder"),
        ("--harness", "made_up_choices", "--text", "my.txt"): (2, "--text: it goes with a text"),
        ("--include", tasks): (2, "--include: it goes with --harness"),
    }
    results = skald.run_many([["evaluate", run_folder, *options] for options in cases])
    for (status, out, err), (expected, message) in zip(results, cases.values(), strict=True):
        assert (status, out) == (expected, "") and message in err and len(err.splitlines()) == 1, err


def test_without_the_package_one_line_says_what_to_install(monkeypatch, run_folder, capsys):
    from launch import cli

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["evaluate", str(run_folder), "--harness", "made_up"]) == 2
    assert "pip install 'skald[harness]'" in capsys.readouterr().err
