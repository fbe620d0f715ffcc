"""`skald evaluate RUN OTHER`: differences and intervals against each run's own scores and SciPy's bootstrap."""

import gc
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from scipy import stats

from data.documents import Documents
from data.errors import DataError
from data.windows import ScoredText
from launch.arguments import argument_parser
from launch.commands import evaluate_pair
from launch.inference.checkpoint import DescribedCheckpoint
from launch.inference.comparison import SEED, block_length
from launch.inference.paired_texts import PairedTexts, data_warning, rewrite
from launch.inference.scoring import validation_texts
from launch.inference.tasks.task import read_tasks
from train.checkpoint_folder import CheckpointError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def use_training_cache(skald, monkeypatch):
    monkeypatch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Forty documents of Shakespeare, each of another length."""
    from data.config import Source
    from data.sources.source import open_source

    (file,) = open_source(Source("embedded:shakespeare"))
    with open(file.name, encoding="utf-8") as opened:
        play = opened.read()[-40_000:]
    documents = [play[1000 * i : 1000 * i + 20 + 17 * i] for i in range(40)]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return path


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_are_paired_and_the_interval_is_scipys(skald, trained_run, texts, tmp_path):
    run, other = f"{trained_run}@40", f"{trained_run}@20"
    both = skald.json("evaluate", run, other, "--text", texts, "--examples", tmp_path / "both.jsonl")
    own = skald.json("evaluate", run, "--text", texts, "--examples", tmp_path / "run.jsonl")
    theirs = skald.json("evaluate", other, "--text", texts, "--examples", tmp_path / "other.jsonl")
    found = both.pop("comparison")
    assert both == own and found["step"] == 20 and found["other"] == other
    assert found["examples"] == {"unit": "documents", "count": 40, "block": 1}
    sides = [sorted(lines(tmp_path / name), key=lambda e: e["document"]) for name in ("run.jsonl", "other.jsonl")]
    nats = [np.array([e["loss"] * e["tokens"] for e in side]) for side in sides]
    tokens = np.array([e["tokens"] for e in sides[0]])

    def mean_difference(a, b, tokens, axis=-1):
        return (b.sum(axis) - a.sum(axis)) / tokens.sum(axis)

    truth = stats.bootstrap((*nats, tokens), mean_difference, paired=True, n_resamples=10_000, method="percentile",
                            rng=np.random.default_rng(SEED)).confidence_interval  # fmt: skip
    assert found["loss"]["interval"] == pytest.approx(list(truth), abs=1e-9)
    for name in ("loss", "bits_per_byte"):
        assert found[name]["difference"] == pytest.approx(theirs[name] - own[name], abs=1e-12)
    per_byte = found["bits_per_byte"]["interval"]
    assert per_byte == pytest.approx([x / math.log(2) for x in truth], abs=1e-9), "a character is a token and a byte"
    better = np.mean(nats[0] < nats[1])
    assert found["better"] == {"run": pytest.approx(better), "other": pytest.approx(1 - better)}
    examples = lines(tmp_path / "both.jsonl")
    strength = [abs(e["other_loss"] - e["loss"]) * math.sqrt(e["tokens"]) for e in examples]
    assert strength == sorted(strength, reverse=True) and len(examples) == 40
    assert found["most_different"]["run"] == [e for e in examples if e["loss"] < e["other_loss"]][:3]
    assert all(e["loss"] > e["other_loss"] for e in found["most_different"]["other"])
    status, said, _ = skald("evaluate", run, other, "--text", texts)
    low, high = found["loss"]["interval"]
    assert (
        status == 0 and f"a difference of {theirs['loss'] - own['loss']:+.4f} (95%: {low:+.4f} to {high:+.4f})" in said
    )
    assert "paired bootstrap's over 40 documents" in said and f"where {run} is better by most:" in said


def test_one_long_text_is_compared_by_its_windows_in_blocks(skald, trained_run):
    from launch.api import load

    found = skald.json("evaluate", f"{trained_run}@40", f"{trained_run}@20")
    own, comparison = found["loss"], found["comparison"]
    windows = math.ceil(found["tokens"] / 32)
    assert comparison["examples"] == {"unit": "windows", "count": windows, "block": block_length(windows)}
    low, high = comparison["loss"]["interval"]
    assert comparison["loss"]["run"] == pytest.approx(own) and low < comparison["loss"]["difference"] < high
    assert comparison["bits_per_byte"]["interval"] is None
    example = comparison["most_different"]["run"][0]
    run, place = load(f"{trained_run}@40"), example["token"]
    (text,) = validation_texts(run)
    first = int(text.documents.bounds(np.array([0])).starts[0]) + place
    ids = np.asarray(text.documents.tokens[first : first + 33])
    logits_TV = np.asarray(run.logits(ids[None, :-1])[0], np.float64)
    nats = np.log(np.exp(logits_TV).sum(-1)) - logits_TV[np.arange(32), ids[1:]]
    assert example["loss"] == pytest.approx(nats.mean(), abs=1e-5)
    assert example["text"] == run.tokenizer.decode(ids[:-1].tolist())


def test_a_run_differs_from_itself_by_exactly_nothing(skald, trained_run, texts):
    found = skald.json("evaluate", trained_run, trained_run, "--text", texts)["comparison"]
    for name in ("loss", "bits_per_byte"):
        assert found[name]["difference"] == 0 and found[name]["interval"] == [0, 0]
    assert found["better"] == {"run": 0, "other": 0} and found["most_different"] == {"run": [], "other": []}


def change_metadata(run: Path, **values) -> None:
    for file in run.glob("checkpoints/*/about/metadata"):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))


def validation_text(run: Path) -> str:
    described = DescribedCheckpoint(str(run))
    (text,) = validation_texts(described)
    start, stop, _ = (x[0] for x in text.documents.bounds(np.array([0])))
    return described.tokenizer.decode(text.documents.tokens[start:stop].tolist())


@pytest.fixture
def pieces_run(run_copy, texts) -> Path:
    """The same weights under another tokenizer of 65 tokens: a start token, characters, and pairs of them."""
    characters = sorted({*"".join(line["text"] for line in lines(texts)), *validation_text(run_copy)})
    pairs = ["th", "e ", "an", "ou"]
    vocabulary = {token: i for i, token in enumerate(["<s>", *characters, *pairs])}
    assert len(vocabulary) <= 65
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [tuple(pair) for pair in pairs]))
    pieces.decoder = tokenizers.decoders.Fuse()
    tokens = {"start_id": 0, "end_id": None, "start_prompts": True}
    change_metadata(run_copy, tokenizer={"kind": "json", "content": pieces.to_str(), **tokens})
    return run_copy


def test_under_two_tokenizers_bits_a_byte_of_the_same_documents_are_compared(skald, trained_run, pieces_run, texts):
    """In both directions; the scores are those of each run alone."""
    alone = [skald.json("evaluate", run, "--text", texts)["bits_per_byte"] for run in (trained_run, pieces_run)]
    found = skald.json("evaluate", trained_run, pieces_run, "--text", texts)["comparison"]
    assert "loss" not in found and found["examples"] == {"unit": "documents", "count": 40, "block": 1}
    assert [found["bits_per_byte"][side] for side in ("run", "other")] == pytest.approx(alone)
    low, high = found["bits_per_byte"]["interval"]
    assert low < alone[1] - alone[0] < high
    back = skald.json("evaluate", pieces_run, trained_run, "--text", texts)["comparison"]
    assert back["bits_per_byte"]["interval"] == pytest.approx([-high, -low])


def test_under_two_tokenizers_the_other_reads_the_runs_own_validation_text(skald, trained_run, pieces_run, tmp_path):
    """Written anew in its tokens, from those of the run, start tokens left out; one document has no interval."""
    (tmp_path / "split.txt").write_text(validation_text(trained_run))
    alone = skald.json("evaluate", pieces_run, "--text", tmp_path / "split.txt")
    status, said, err = skald("evaluate", trained_run, pieces_run)
    assert status == 0 and "the tokenizers differ: nats a token can't be compared" in said, err
    assert f"{alone['bits_per_byte']:.4f} bits a byte" in said and "1 document: too few for an interval" in said
    pieces, other = (DescribedCheckpoint(str(run)) for run in (pieces_run, trained_run))
    ids = [[0, *pieces.tokenizer.encode(text)] for text in ("the sea", "", "out")]
    offsets = np.cumsum([0, *map(len, ids)])
    documents = Documents(np.concatenate(ids), offsets, np.array([7, 0, 3]), ended=False)
    rewritten, numbers = rewrite(ScoredText("split", documents, 10), pieces, other)
    assert numbers.tolist() == [0, 2] and rewritten.name == "split" and rewritten.bytes == 6 + 2
    assert other.tokenizer.decode(rewritten.documents.tokens[:].tolist()) == "the seaout"


def test_tasks_are_compared_example_by_example(skald, trained_run, tmp_path):
    """Choices between two continuations; each side's accuracy, and who alone is right, out of the kept results."""
    questions = [{"q": f"{a} the ", "choices": [f"{b}ing", f"zx{b}"], "answer": i % 2}
                 for i, (a, b) in enumerate((a, b) for a in "abcdefgh" for b in ("k", "lov", "s", "mak"))]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    template = "{{ q }}{% generation %}{{ choices[answer] }}{% endgeneration %}"
    task = tmp_path / "pick.toml"
    task.write_text(f'data = "q.jsonl"\ntemplate = "{template}"\nmetric = "multiple_choice"\nchoices = "choices"\n')
    options = ["--tasks", task, "--results", tmp_path / "results"]
    found = skald.json("evaluate", f"{trained_run}@40", f"{trained_run}@20", *options)
    pick = found["comparison"]["tasks"]["pick"]
    assert pick["accuracy"]["run"] == found["tasks"]["pick"]["accuracy"] and "loss" in found["comparison"]
    results = [{line["index"]: line for line in lines(path)} for path in (tmp_path / "results").iterdir()]
    rights = [{i for i, line in side.items() if line["correct"]} for side in results]
    assert sorted([pick["only_run"], pick["only_other"]]) == sorted(
        [len(rights[0] - rights[1]), len(rights[1] - rights[0])]
    )
    assert sorted([pick["accuracy"]["run"], pick["accuracy"]["other"]]) == sorted(len(right) / 32 for right in rights)
    assert {"accuracy_per_byte", "accuracy_per_character", "mcnemar"} <= pick.keys() and pick["examples"] == 32
    status, said, _ = skald("evaluate", f"{trained_run}@40", f"{trained_run}@20", *options)
    assert status == 0 and "  pick, 32 examples:" in said and "McNemar's p = " in said


def write_metadata(run: Path, metadata: dict) -> Path:
    """A checkpoint without arrays, which is enough to be refused."""
    (run / "checkpoints" / "40" / "model").mkdir(parents=True)
    (run / "checkpoints" / "40" / "about").mkdir()
    (run / "checkpoints" / "40" / "about" / "metadata").write_text(json.dumps(metadata))
    return run


def test_what_can_not_be_compared_is_said_before_anything_is_scored(skald, trained_run, texts, tmp_path):
    metadata = json.loads((trained_run / "checkpoints" / "40" / "about" / "metadata").read_text())
    metadata["data"]["training"][0]["source"] = "0" * 64
    metadata["config"]["data"]["length"] = 16
    run, changed = (DescribedCheckpoint(str(name)) for name in (trained_run, write_metadata(tmp_path / "a", metadata)))
    assert data_warning(run, run) is None
    assert "was trained with other data, or another split of it" in data_warning(run, changed)
    assert PairedTexts(run, changed).other_windows == (32, 32), "the run's, not its own"
    metadata["model"]["context"] = metadata["config"]["model"]["context"] = 16
    short = write_metadata(tmp_path / "short", metadata)
    tokens = {"start_id": None, "end_id": None, "start_prompts": False}
    ids = write_metadata(tmp_path / "ids", metadata | {"tokenizer": {"kind": "ids", "vocab_size": 65, **tokens}})
    commands = [[tmp_path / "none"], [trained_run, "--watch"], [short, "--text", texts], [ids]]
    expected = ["none: no such folder", "--watch follows one run, and two are named", "wanted 1 <= stride <= window <= "
                "context=16", "the tokenizers differ, and one of them reads token ids"]  # fmt: skip
    results = skald.run_many([["evaluate", trained_run, *command] for command in commands])
    for (status, _, err), line in zip(results, expected, strict=True):
        assert status == 2 and line in err.splitlines()[-1], err


@pytest.fixture
def writing_task(texts, tmp_path) -> Path:
    """A task file whose examples the tiny run writes a few characters behind."""
    beginnings = [{"text": line["text"][:10]} for line in lines(texts)[:2]]
    (tmp_path / "beginnings.jsonl").write_text("".join(json.dumps(beginning) + "\n" for beginning in beginnings))
    (tmp_path / "write.toml").write_text(
        'data = "beginnings.jsonl"\ntemplate = "{{ text }}{% generation %}x{% endgeneration %}"\n'
        'metric = "exact_match"\nmax_new_tokens = 3\n'
    )
    return tmp_path / "write.toml"


def pair_arguments(run, other, task: Path, **options):
    command = ["evaluate", str(run), str(other), "--tasks", str(task), "--results", str(task.parent / "results")]
    arguments = argument_parser().parse_args(command)
    vars(arguments).update(options, tasks=read_tasks([str(task)]))
    return arguments


def test_one_model_at_a_time_is_on_the_device(trained_run, writing_task, monkeypatch):
    """With a task that the decoder writes; bytes of all arrays as each checkpoint is about to be loaded."""
    live, load = [], evaluate_pair.LoadedCheckpoint

    def counted(*arguments, **options):
        live.append(sum(array.nbytes for array in jax.live_arrays()))
        return load(*arguments, **options)

    monkeypatch.setattr(evaluate_pair, "LoadedCheckpoint", counted)
    arguments = pair_arguments(f"{trained_run}@40", f"{trained_run}@20", writing_task)
    gc.collect()
    scores, _ = evaluate_pair.evaluate_pair(arguments, lambda line: None, 10.0)
    assert "loss" in scores["comparison"] and scores["comparison"]["tasks"]["write"]["examples"] == 2
    weights = sum(weight.nbytes for weight in jax.tree.leaves(load(f"{trained_run}@40").model))
    assert len(live) == 2 and live[1] - live[0] < weights / 10


def test_what_is_wrong_with_the_other_is_said_before_the_run_is_loaded(
    trained_run, pieces_run, texts, writing_task, tmp_path, monkeypatch
):
    def load(*arguments, **options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(evaluate_pair, "LoadedCheckpoint", load)
    strange = tmp_path / "strange.toml"
    (tmp_path / "strange.jsonl").write_text('{"text": "ou"}\n')
    strange.write_text(writing_task.read_text().replace("beginnings", "strange").replace("{{ text }}", "{{ text }} $"))
    (tmp_path / "file").write_text("no folder")
    average = write_metadata(tmp_path / "a", DescribedCheckpoint(str(trained_run)).metadata)
    for other, task, options, error, message in [
        (pieces_run, strange, {"text": str(texts)}, DataError, f"does not go with the tokenizer of {pieces_run}"),
        (average, writing_task, {"weights": "average"}, CheckpointError, "no average weights"),
        (trained_run, writing_task, {"results": str(tmp_path / "file" / "a")}, DataError, "can't write there"),
    ]:
        with pytest.raises(error, match=message):
            evaluate_pair.evaluate_pair(pair_arguments(trained_run, other, task, **options), print, 10.0)
