"""`skald evaluate` and the Python surface, against a sum over the logits in float64 NumPy."""

import contextlib
import copy
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from data.config import Source
from data.errors import DataError
from model.config import Learned
from model.decode.prompts import PromptTooLong
from model.quantized_weights import QuantizedWeight
from train.checkpoint_folder import CheckpointError
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def run(trained_run):
    from launch.api import load

    return load(f"{trained_run}@best")


@pytest.fixture(scope="module", autouse=True)
def use_training_cache(skald):
    """Lets launch.api in this process read the token store that training made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])
        yield


def with_config(run, config):
    """The same checkpoint with another config."""
    other = copy.copy(run)
    other.config = config
    return other


def reference_nats(run, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Sum of -log p and number of tokens, by a plain loop: each target counts once, in the first window that has it."""
    total, counted = 0.0, 0
    for start in range(0, len(ids) - 1, stride):
        piece = ids[start : start + window + 1]
        if counted >= start + len(piece) - 1:
            continue
        logits_TV = np.asarray(run.logits([piece[:-1]])[0], np.float64)
        losses_T = np.log(np.exp(logits_TV - logits_TV.max(-1, keepdims=True)).sum(-1)) + logits_TV.max(-1)
        losses_T = losses_T - logits_TV[np.arange(len(piece) - 1), piece[1:]]
        new = start + len(piece) - 1 - counted
        total, counted = total + losses_T[-new:].sum(), counted + new
    return total, counted


def plain_loss(run, text: str) -> float:
    total, tokens = reference_nats(run, run.tokenizer.encode(text), run.config.data.length, run.config.data.length)
    return total / tokens


def test_calibration_and_the_worst_documents_are_those_of_the_models_own_logits(skald, run, trained_run, tmp_path):
    texts = ["We are accounted poor citizens", "qxz jvk", "the patricians good."]  # two share a row
    file, out = tmp_path / "texts.jsonl", tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = skald.json("evaluate", trained_run, "--text", file, "--window", 32, "--examples", out)
    losses, confidences, correct, briers = [], [], [], []
    for text in texts:
        ids = run.tokenizer.encode(text)
        logits_TV = np.asarray(run.logits([ids[:-1]])[0], np.float64)
        p_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(-1, keepdims=True)
        losses.append(-np.log(p_TV[np.arange(len(ids) - 1), ids[1:]]))
        confidences += p_TV.max(-1).tolist()
        correct += (p_TV.argmax(-1) == ids[1:]).tolist()
        briers += np.square(p_TV - np.eye(p_TV.shape[-1])[ids[1:]]).sum(-1).tolist()
    calibration, bins = found["calibration"], np.ceil(np.array(confidences) * 15)
    distances = [abs(sum(np.array(correct)[bins == i] - np.array(confidences)[bins == i])) for i in range(1, 16)]
    assert calibration["ece"] == pytest.approx(sum(distances) / len(correct), abs=1e-5)
    assert calibration["brier"] == pytest.approx(np.mean(briers), abs=1e-5)
    assert calibration["accuracy"] == pytest.approx(np.mean(correct))
    assert sum(tokens for tokens, _, _ in calibration["bins"]) == found["tokens"] == len(correct)
    examples = [json.loads(line) for line in out.read_text().splitlines()]
    assert [example["text"] for example in examples] == [texts[i] for i in np.argsort([-x.mean() for x in losses])]
    for example in examples:
        assert example["loss"] == pytest.approx(losses[texts.index(example["text"])].mean(), abs=1e-5)
        assert example["tokens"] == len(losses[example["document"]]) and example["text"] == texts[example["document"]]
    status, _, err = skald(
        "evaluate", trained_run, "--text", file, "--examples", tmp_path / "nowhere" / "examples.jsonl"
    )
    assert status == 1 and "nowhere" in err and len(err.strip().splitlines()) == 1


def test_weights_in_few_bits_are_scored_as_a_decoder_has_them(skald, run, trained_run, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("First Citizen:\nWe are accounted poor citizens, the patricians good.\n" * 4)
    found = skald.json("evaluate", trained_run, "--text", file, "--quantize", "int4")
    assert (
        found["unquantized"]["loss"] == run.evaluate(file)["loss"] == pytest.approx(plain_loss(run, file.read_text()))
    )

    def rounded(weight: nnx.Param) -> nnx.Param:
        inside = weight.axes[0] == "layers" and weight.input_axes
        return weight.replace(QuantizedWeight(weight, "int4").unpacked(np.float32)) if inside else weight

    other = copy.copy(run)
    other.model = jax.tree.map(rounded, run.model, is_leaf=lambda x: isinstance(x, nnx.Param))
    table = run.model.output_weight()
    other.model.output = nnx.data(table.replace(QuantizedWeight(table, "int4").unpacked(np.float32)))
    assert found["loss"] == pytest.approx(other.evaluate(file)["loss"], abs=1e-4) != found["unquantized"]["loss"]
    _, said, _ = skald("evaluate", trained_run, "--text", file, "--quantize", "int4")
    assert "weights in int4; as they are:" in said and "it grows by" in said
    (text,) = skald.json("generate", trained_run, "--sampler", "greedy", "--quantize", "int4")["samples"]
    assert (
        text["text"]
        and text["text"] != skald.json("generate", trained_run, "--sampler", "greedy")["samples"][0]["text"]
    )


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_all_devices_score_a_text_and_find_what_one_finds(trained_run, monkeypatch, quantize):
    """Eight devices, more than the run's rows: each window is scored once."""
    from launch.inference import scoring
    from launch.inference.checkpoint import LoadedCheckpoint

    run, found, meshes = LoadedCheckpoint(str(trained_run), quantize=quantize), [], []

    def score_tokens(model, batch, original=scoring.score_tokens):
        meshes.append(jax.tree.leaves(batch)[0].sharding.num_devices)
        return original(model, batch)

    monkeypatch.setattr(scoring, "score_tokens", score_tokens)
    for mesh in (scoring.replica_mesh, lambda: None):
        monkeypatch.setattr(scoring, "replica_mesh", mesh)
        found.append(scoring.evaluate(run, window=24, stride=16))
    assert {*meshes} == {1, 8}
    (several, alone), numbers = found, ("loss", "bits_per_byte")
    assert several["tokens"] == alone["tokens"] and several["bytes"] == alone["bytes"]
    for one, other in ((several, alone), *([(several["unquantized"], alone["unquantized"])] if quantize else [])):
        assert [one[n] for n in numbers] == pytest.approx([other[n] for n in numbers], abs=2e-6)
    assert several["calibration"]["ece"] == pytest.approx(alone["calibration"]["ece"], abs=1e-4)


@pytest.mark.parametrize("window, stride", [(32, 32), (32, 8), (17, 5)])
def test_a_text_files_score_is_the_sum_over_its_windows(skald, run, trained_run, tmp_path, window, stride):
    text = "First Citizen:\nWe are accounted poor citizens, the patricians good.\nWhat authority surfeits on"
    (tmp_path / "text.txt").write_text(text)
    options = ["--text", tmp_path / "text.txt", "--window", window, "--stride", stride]
    scores = skald.json("evaluate", trained_run, *options)
    total, tokens = reference_nats(run, run.tokenizer.encode(text), window, stride)
    assert tokens == len(text) - 1 == scores["tokens"] == scores["bytes"], (
        "the first character is predicted from nothing"
    )
    assert scores["loss"] == pytest.approx(total / tokens, abs=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert scores["bits_per_byte"] == pytest.approx(total / math.log(2) / tokens, rel=1e-5)
    assert (scores["window"], scores["stride"], scores["tasks"]) == (window, stride, {})
    assert run.evaluate(str(tmp_path / "text.txt"), window, stride)["loss"] == pytest.approx(scores["loss"], abs=1e-6)


def test_the_whole_validation_split_is_scored_and_equals_trainings_own_figure(fresh, trained_run):
    scores = fresh.json("evaluate", trained_run)
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    assert scores["loss"] == pytest.approx(lines[-1]["eval/loss"], abs=1e-5)
    size = int(1_115_394 * 0.1) - int(1_115_394 * 0.09)
    assert (scores["tokens"], scores["bytes"], scores["window"], scores["stride"]) == (size - 1, size - 1, 32, 32)
    status, out, _ = fresh("evaluate", trained_run)
    assert status == 0 and f"{scores['loss']:.4f} nats a token" in out and "window 32, stride 32" in out


def test_the_python_surface(run, trained_run):
    assert run.step == 40 and run.config.model.width == 32
    tokens = np.arange(40).reshape(2, 20)
    logits_BTV = run.logits(tokens)
    assert logits_BTV.shape == (2, 20, 65) and logits_BTV.dtype == np.float32
    hidden = jax.jit(lambda model, x: model.hidden(x))(run.model, tokens.astype(np.int32))
    np.testing.assert_allclose(logits_BTV, np.asarray(hidden) @ np.asarray(run.model.embedding.table[...]).T, atol=1e-4)
    samples = run.generate("ROMEO:", sampler="top_k=5", max_new_tokens=10, seed=2, num_samples=2)
    assert [sample["prompt"] for sample in samples] == ["ROMEO:"] * 2
    assert samples == run.generate("ROMEO:", sampler="top_k=5", max_new_tokens=10, seed=2, num_samples=2)


@pytest.mark.parametrize("name, content", [("one.txt", "a"), ("none.jsonl", ""), ("ones.jsonl", '{"text": "a"}\n' * 3)])
def test_a_text_without_a_token_to_predict_is_refused(run, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: no" + ("thing to score" if content else " text, the file is empty")):
        run.evaluate(str(tmp_path / name))
    with pytest.raises(DataError, match="path is empty"):
        run.evaluate("")


def test_records_are_read_by_the_field_named_or_by_the_runs_own(skald, run, tmp_path):
    """Against the same text under the run's own field; the run was trained with `text`."""
    from launch.inference.scoring import evaluate

    texts = ["First Citizen:\nWe are accounted", "poor citizens,"]
    for name, field in (("own.jsonl", "text"), ("other.jsonl", "body")):
        (tmp_path / name).write_text("\n".join(json.dumps({field: text}) for text in texts))
    (tmp_path / "other.csv").write_text('n,body\n1,"First Citizen:\nWe are accounted"\n2,"poor citizens,"\n')
    own_scores = run.evaluate(str(tmp_path / "own.jsonl"))
    assert own_scores["tokens"] == sum(map(len, texts)) - 2
    assert run.evaluate(str(tmp_path / "other.csv"), field="body") == own_scores
    scores = skald.json("evaluate", run.name, "--text", tmp_path / "other.jsonl", "--field", "body")
    assert scores["loss"] == pytest.approx(own_scores["loss"], abs=1e-6) and scores["tokens"] == own_scores["tokens"]
    config = replace(run.config, data=replace(run.config.data, source=Source("gone.jsonl", "body")))
    trained_on_body = with_config(run, config)
    assert evaluate(trained_on_body, str(tmp_path / "other.jsonl")) == own_scores


def test_advice_on_fields_can_be_taken_where_it_is_given(run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}')
    with pytest.raises(
        DataError, match=r"a.jsonl:1: no field 'text'; there: 'body'; .*--field NAME; in Python field="
    ) as e:
        run.evaluate(str(tmp_path / "a.jsonl"))
    assert "data." not in str(e.value).replace(str(tmp_path), "")
    with pytest.raises(ConfigError, match=r"field 'body' without a text: --field goes with --text"):
        run.evaluate(field="body")


def test_a_validation_text_that_can_not_be_read_any_more_is_another_one(run, tmp_path):
    """Not `set data.source.field`: a checkpoint's config can't be set."""
    from launch.inference.scoring import evaluate

    (tmp_path / "a.jsonl").write_text('{"body": "x"}')
    config = replace(run.config, data=replace(run.config.data, validation_source=Source(str(tmp_path / "a.jsonl"))))
    changed = with_config(run, config)
    changed.metadata = json.loads(json.dumps(run.metadata))
    changed.metadata["data"]["validation"][0]["source"] = "0" * 64  # of a store that the cache has no more
    with pytest.raises(DataError, match=r"a.jsonl: not the validation text .*--text FILE; in Python text="):
        evaluate(changed)


def test_a_validation_text_that_is_gone_is_scored_from_its_store(run):
    from launch.inference.scoring import evaluate

    source = replace(run.config.data, source=Source("a text that is gone"))
    assert evaluate(with_config(run, replace(run.config, data=source))) == run.evaluate()


def test_another_validation_text_than_the_runs_is_refused(run):
    from launch.inference.scoring import validation_texts

    metadata = json.loads(json.dumps(run.metadata))
    metadata["data"]["validation"][0]["source"] = "0" * 64  # what a text that has changed since then looks like
    stale = SimpleNamespace(config=run.config, tokenizer=run.tokenizer, name="old", metadata=metadata)
    with pytest.raises(DataError, match=r"embedded:shakespeare: not the validation text that old was.*--text FILE"):
        validation_texts(stale)


# The trained length


def set_trained_length(folder, length: int):
    """Makes the checkpoints say that they were trained on rows of so many tokens."""
    for file in folder.glob("checkpoints/*/about/metadata"):
        metadata = json.loads(file.read_text())
        assert metadata["trained_length"] == 32
        file.write_text(json.dumps(metadata | {"trained_length": length}))
    return folder


def test_writing_and_scoring_keep_to_the_length_of_training(run_copy, capsys):
    from launch.api import load

    short = load(str(set_trained_length(run_copy, 8)))
    with pytest.raises(PromptTooLong, match="has 8 tokens and the model was trained on 8 at a time: 7 at most"):
        short.generate("ROMEO: I")
    (sample,) = short.generate("ROMEO:", sampler="greedy", max_new_tokens=20)
    ids = short.tokenizer.encode("ROMEO:")
    for token, logprob in zip(sample["tokens"], sample["logprobs"], strict=True):
        with pytest.warns(UserWarning, match="rows of 8") if len(ids) > 8 else contextlib.nullcontext():
            whole_V = short.logits([ids])[0, -1]
        window_logits = [short.logits([ids[-n:]])[0, -1] for n in range(1, min(len(ids), 8) + 1)]
        logprobs = [logits_V[token] - np.log(np.exp(logits_V).sum()) for logits_V in window_logits]
        assert min(abs(np.array(logprobs) - logprob)) < 1e-4, "of the last tokens, eight at most"
        ids.append(token)
    assert whole_V.shape == (65,)
    assert short.evaluate(window=16)["window"] == 16
    assert "was trained on rows of 8 tokens: behind them, up to 16" in capsys.readouterr().err


def test_learned_positions_that_were_never_trained_are_not_scored_with(run):
    learned = with_config(run, run.config)
    learned.model_config = replace(run.model_config, positions=Learned())
    learned.trained_length = 16
    with pytest.raises(ConfigError, match=r"window 32: .*trained on rows of 16 tokens.*a window of 16 at most"):
        learned.evaluate()


@pytest.mark.parametrize("length, parent_length, expected", [(16, None, 16), (16, 32, 32), (32, 16, 32), (16, 500, 64)])
def test_the_trained_length_is_the_longer_of_a_runs_rows_and_its_parents(length, parent_length, expected):
    from launch.commands.train import trained_length
    from launch.experiments import make_experiment

    base = make_experiment("shakespeare")
    experiment = replace(base, data=replace(base.data, length=length))
    assert trained_length(experiment, parent_length and {"trained_length": parent_length}) == expected


def test_a_checkpoint_of_an_older_skald_is_refused_in_one_line(run_copy):
    from launch.api import load

    for file in run_copy.glob("checkpoints/*/about/metadata"):
        metadata = json.loads(file.read_text())
        del metadata["trained_length"]
        file.write_text(json.dumps(metadata | {"version": "0.1.0"}))
    with pytest.raises(CheckpointError, match=r"checkpoints/40: made by Skald 0.1.0, whose .*; that version reads it"):
        load(str(run_copy))


def test_what_goes_with_a_text_is_refused_where_none_is_scored_and_examples_keep_their_file(skald, run_copy, tmp_path):
    """Two runs without a validation text: one has none, as an import; of the other, text and token store are gone."""
    (tmp_path / "q.jsonl").write_text('{"q": "the ", "a": "king"}\n')
    template = "{{ q }}{% generation %}{{ a }}{% endgeneration %}"
    (tmp_path / "q.toml").write_text(f'data = "q.jsonl"\ntemplate = "{template}"\nmetric = "cloze"\n')
    kept, file, gone = '{"document": 3}\n', tmp_path / "examples.jsonl", tmp_path / "gone"
    file.write_text(kept)
    shutil.copytree(run_copy, gone)
    for folder, changes in ((run_copy, {"config": None}), (gone, {})):
        metadata = folder / "checkpoints" / "40" / "about" / "metadata"
        values = json.loads(metadata.read_text())
        values["config"]["data"]["source"]["path"] = str(tmp_path / "gone.txt")
        metadata.write_text(json.dumps(values | changes))
    options, tasks = [["--examples", file], ["--window", 8], ["--field", "text"]], ["--tasks", tmp_path / "q.toml"]
    commands = [["evaluate", run_copy, *tasks, *option] for option in options]
    commands += [["evaluate", run_copy, run_copy, *tasks, *options[0]]]
    commands += [["evaluate", gone, *tasks, *option] for option in options[:2]]
    commands += [["evaluate", run_copy, "--watch", *options[2]]]
    commands += [["evaluate", folder, *tasks, "--results", tmp_path / "results"] for folder in (run_copy, gone)]
    *refused, (status, out, _), (left_out, _, err) = skald.with_environment(
        SKALD_CACHE=str(tmp_path / "cache")
    ).run_many(commands)
    imported = f": it goes with a text, and {run_copy} was imported and has no validation text"
    expected = [(2, f"{option[0]}{imported}") for option in [*options, options[0]]]
    expected += [(1, "gone.txt")] * 2 + [(2, "--field text: it goes with --text FILE")]
    for (found, said, line), (wanted, message) in zip(refused, expected, strict=True):
        assert (found, said) == (wanted, "") and message in line and len(line.splitlines()) == 1, line
    assert (status, left_out) == (0, 0) and "q, cloze, 1 examples" in out and "validation text are left out" in err
    assert file.read_text() == kept
