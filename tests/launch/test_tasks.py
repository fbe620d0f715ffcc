"""Evaluation tasks from their files to their metrics: against the model's own logits and texts, and after a kill."""

import copy
import gc
import importlib.util
import itertools
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import sentiment
from data.errors import DataError
from data.templates import Template
from launch.inference.tasks import evaluate as task_evaluation
from launch.inference.tasks.evaluate import PreparedTask
from launch.inference.tasks.examples import read_examples
from launch.inference.tasks.generation import TaskWriter
from launch.inference.tasks.results import ResultsFile, examples_digest
from launch.inference.tasks.task import SHIPPED, Task, read_task, read_tasks
from launch.inference.tasks.training import TrainingTasks
from model.decode.chain import SamplerError
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(300)

REVIEWS = [("a fine play", 1), ("the worst", 0), ("not bad", 1), ("I slept", 0), ("he wept, and so did we", 1)]
WORDS = r'banned_words=[" ","\n"],greedy'  # a model that has learnt little writes spaces only
REVIEW = """
data = "reviews.tsv"
template = "{{ text }}:{% generation %} {{ ['bad', 'good'][label | int] }}{% endgeneration %}"
metric = "classification"
choices = ["bad", "good"]
sampler = 'WORDS'
max_new_tokens = 5
""".replace("WORDS", WORDS)
QUESTION = """
data = "questions.jsonl"
template = "{{ question }}{% generation %} {{ choices[answer] }}{% endgeneration %}"
metric = "multiple_choice"
choices = "choices"
"""
LAST_WORDS = "{{ question }}{% generation %} {{ choices[0] }}{% endgeneration %}"
LAST_WORD = f"""
data = "questions.jsonl"
template = "{LAST_WORDS}"
metric = "cloze"
"""
COPY = """
data = "questions.jsonl"
template = "{{ question }}{% generation %} {{ question }}{% endgeneration %}"
metric = "exact_match"
sampler = 'WORDS'
max_new_tokens = 15
""".replace("WORDS", WORDS)
TASKS = {"review": REVIEW, "question": QUESTION, "last_word": LAST_WORD, "copy": COPY}
QUESTIONS = [
    {"question": "Who is he", "choices": ["my king", "no man at all", "I"], "answer": 1},
    {"question": "What ails thee", "choices": ["love", "love of him"], "answer": 0},
    {"question": "O", "choices": ["Romeo", "no"], "answer": 0},
]


@pytest.fixture(scope="module")
def run(trained_run):
    from launch.api import load

    return load(str(trained_run))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the files of all TASKS and their data."""
    write_lines(tmp_path / "questions.jsonl", QUESTIONS)
    rows = "".join(f"{label}\t{text}\n" for text, label in REVIEWS)
    (tmp_path / "reviews.tsv").write_text(f"label\ttext\n{rows}")
    for name, task in TASKS.items():
        (tmp_path / f"{name}.toml").write_text(task)
    return tmp_path


def write_lines(file: Path, records: list) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def log_probability(run, prompt: str, continuation: str) -> tuple[float, bool]:
    """By the model's logits, in float64, of characters: and whether each is the likeliest."""
    ids, length = run.tokenizer.encode(prompt + continuation), len(continuation)
    logits_TV = np.asarray(run.logits([ids[:-1]])[0], np.float64)[-length:]
    log_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    return log_TV[np.arange(length), ids[-length:]].sum(), bool((log_TV.argmax(-1) == ids[-length:]).all())


def results_of(found: dict) -> list[dict]:
    """The kept results of a task, by index."""
    lines = [json.loads(line) for line in Path(found["results"]).read_text().splitlines()]
    return sorted(lines, key=lambda line: line["index"])


# Scores


def test_two_tasks_of_one_name_are_refused_in_python_as_well(run, folder):
    question = read_tasks([str(folder / "question.toml")])
    with pytest.raises(ConfigError, match="two tasks are named 'question'"):
        run.evaluate(tasks=[*question, str(folder / "question.toml")], results=folder / "kept")


def test_choices_are_scored_by_the_models_own_logits(run, folder):
    found = run.evaluate(tasks=[str(folder / "question.toml")], results=folder / "kept")["tasks"]["question"]
    results = results_of(found)
    for record, result in zip(QUESTIONS, results, strict=True):
        scores = [log_probability(run, record["question"], f" {choice}")[0] for choice in record["choices"]]
        assert result["scores"] == pytest.approx(scores, abs=1e-4)
        characters = [len(choice) for choice in record["choices"]]
        assert result["chosen"] == np.argmax(scores)
        assert result["chosen_per_character"] == np.argmax(np.array(scores) / characters)
        assert (result["answer"], result["task"]) == (record["answer"], "question")
    assert found["accuracy"] == np.mean([result["chosen"] == result["answer"] for result in results])
    assert (found["metric"], found["examples"], found["tokenization"]) == ("multiple_choice", 3, "together")


def test_the_last_words_have_the_models_own_perplexity(run, folder):
    found = run.evaluate(tasks=[str(folder / "last_word.toml")], results=folder / "kept")["tasks"]["last_word"]
    own = [log_probability(run, record["question"], f" {record['choices'][0]}") for record in QUESTIONS]
    assert found["perplexity"] == pytest.approx(np.exp(-np.mean([nats for nats, _ in own])), rel=1e-4)
    assert found["accuracy"] == np.mean([is_greedy for _, is_greedy in own])
    characters = sum(1 + len(record["choices"][0]) for record in QUESTIONS)
    assert found["loss"] == pytest.approx(-sum(nats for nats, _ in own) / characters, rel=1e-4)


def test_labels_are_found_by_likelihood_and_by_what_is_written(run, folder):
    scores = run.evaluate(tasks=[str(folder / "review.toml")], results=folder / "kept")
    found, labels = scores["tasks"]["review"], ("bad", "good")
    assert scores["loss"] > 0 and scores["step"] == run.step
    for (text, label), result in zip(REVIEWS, results_of(found), strict=True):
        own = [log_probability(run, f"{text}:", f" {word}")[0] for word in labels]
        assert result["scores"] == pytest.approx(own, abs=1e-4)
        (written,) = run.generate(f"{text}:", sampler=WORDS, max_new_tokens=5)
        assert result["output"] and (result["output"], result["prompt"]) == (written["text"].strip(), f"{text}:")
        assert result["answer"] == labels[label] and result["chosen"] == labels[int(np.argmax(own))]
    assert found["generation_outside"] == 1.0 and found["errors"] == 0


@pytest.mark.parametrize("sampler", [WORDS, WORDS.replace("greedy", "beam=2")])
def test_what_is_written_is_what_generate_writes(run, folder, sampler):
    (free,) = run.generate(QUESTIONS[0]["question"], sampler=sampler, max_new_tokens=15)
    stop = next(character for character in free["text"] if not character.isspace())
    task = replace(read_task(str(folder / "copy.toml")), sampler=sampler, stop=(stop,))
    found = run.evaluate(tasks=[task], results=folder / "kept")["tasks"]["copy"]
    for record, result in zip(QUESTIONS, results_of(found), strict=True):
        (alone,) = run.generate(record["question"], sampler=sampler, max_new_tokens=15, stop=stop)
        assert result["output"] == alone["text"].strip() and stop not in result["output"]


def test_space_around_choices_makes_no_difference(run, folder):
    """Neither to what is scored nor to what may be written: the template says how an answer begins."""
    pytest.importorskip("llguidance", reason="the optional package llguidance (skald[grammar]) is not installed")
    stated, spaced = (
        replace(read_task(str(folder / "review.toml")), choices=choices, name=name)
        for name, choices in (("stated", ("bad", "good")), ("spaced", (" bad", "good\n")))
    )
    word = 'regex=" (bad|good)",greedy'
    tasks = [replace(task, sampler=word) for task in (stated, spaced)]
    found = run.evaluate(tasks=tasks, results=folder / "kept")["tasks"]
    own, other = (
        [
            {name: value for name, value in result.items() if name not in ("digest", "task")}
            for result in results_of(one)
        ]
        for one in found.values()
    )
    assert own == other and all(result["written"] in ("bad", "good") for result in own)


def test_a_records_own_choices_are_read_without_space_around_them(folder):
    asked = [{"question": "O", "choices": [" Romeo", "no "], "answer": 0}]
    (example,) = read_examples(replace(read_task("multiple_choice"), data=str(write_lines(folder / "q.jsonl", asked))))
    assert (example.choices, example.label, example.space) == (("Romeo", "no"), 0, " ")


def test_a_prompt_that_is_too_long_to_go_on_from_counts_as_wrong(run, folder, capsys):
    write_lines(folder / "questions.jsonl", [*QUESTIONS, {"question": "x" * 40, "choices": ["a"], "answer": 0}])
    task = replace(read_task(str(folder / "copy.toml")), template=LAST_WORDS)
    found = run.evaluate(tasks=[task], results=folder / "kept")["tasks"]["copy"]
    *_, result = results_of(found)
    assert (found["errors"], result["output"], result["correct"]) == (1, "", False)
    assert "the prompt has 40 tokens" in result["error"] and "nothing is written to 1 of 4" in capsys.readouterr().err


def test_answers_that_can_not_be_written_are_refused_before_anything_is_scored(run, folder):
    """Of characters: their number is that of tokens. As many as fit are taken."""
    longest = max(len(f" {record['question']}") for record in QUESTIONS)
    copied, review = (read_task(str(folder / f"{name}.toml")) for name in ("copy", "review"))
    tasks = {"classification": (review, len(" good"), "reviews.tsv:2"), "exact_match": (copied, longest, "s.jsonl:2")}
    for metric in ("translation", *tasks):
        task, tokens, place = tasks.get(metric, tasks["exact_match"])
        task, writer = replace(task, metric=metric), TaskWriter(run)
        if metric != "translation" or importlib.util.find_spec("sacrebleu"):
            PreparedTask(run, replace(task, max_new_tokens=tokens), writer)
            said = f"{place}: an answer of {tokens} tokens.*lets the model write {tokens - 1}; set its max_new_tokens"
            with pytest.raises(DataError, match=said):
                PreparedTask(run, replace(task, max_new_tokens=tokens - 1), writer)
    write_lines(folder / "questions.jsonl", [*QUESTIONS, {"question": "x" * 31}, {"question": "x" * 32}])
    assert run.trained_length == 32
    PreparedTask(run, replace(copied, limit=4, max_new_tokens=100), TaskWriter(run))
    with pytest.raises(DataError, match=r"questions.jsonl:5: an answer of 33 tokens; .* was trained on 32 at a time"):
        PreparedTask(run, replace(copied, max_new_tokens=100), TaskWriter(run))


class Pairs:
    """A tokenizer whose tokens are pairs of letters, from a text's beginning: a border may fall within a token."""

    start_id = end_id = None
    start_prompts = False

    def encode(self, text: str) -> list[str]:
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    def encode_behind(self, text: str, before: str) -> np.ndarray:
        return np.array(self.encode(text))


def test_prompt_and_answer_are_encoded_as_the_task_says(folder):
    write_lines(folder / "questions.jsonl", [{"question": "abc", "choices": ["de"]}])
    task = replace(read_task(str(folder / "last_word.toml")), template="{{question}}{% generation %}{{choices[0]}}"
                   "{% endgeneration %}")  # fmt: skip
    run = SimpleNamespace(name="x", tokenizer=Pairs(), trained_length=9, digest="", weights=None,
                          execution=SimpleNamespace(quantize="none"))  # fmt: skip
    together, apart = (
        PreparedTask(run, replace(task, tokenization=name), TaskWriter(run)).requests[0][0]
        for name in ("together", "apart")
    )
    assert together == (("ab", "c"), ("e",)), "as lm-evaluation-harness cuts [ab cd e] behind the prompt's two tokens"
    assert apart == (("ab", "c"), ("de",))


def test_an_import_has_tasks_and_no_scores_of_text(run, folder):
    imported = copy.copy(run)
    imported.config = None
    found = imported.evaluate(tasks=[str(folder / "question.toml")], results=folder / "kept")
    assert found["loss"] is found["perplexity"] is found["window"] is None
    assert found["tasks"]["question"]["examples"] == 3 and found["step"] == run.step


# Kept results


def test_after_a_kill_each_example_is_scored_once_and_all_numbers_are_the_same(skald, trained_run, run, tmp_path):
    """Killed while it writes, then torn in the middle of a line."""
    records = [{"question": f"{'ABCDEFGH'[i % 8]} {'xyz'[i % 3]}", "choices": ["a", "b"]} for i in range(150)]
    write_lines(tmp_path / "questions.jsonl", records)
    (tmp_path / "copy.toml").write_text(COPY.replace("= 15", "= 24"))
    command = ["evaluate", trained_run, "--tasks", tmp_path / "copy.toml", "--results"]
    whole = run.evaluate(tasks=[str(tmp_path / "copy.toml")], results=tmp_path / "whole")["tasks"]["copy"]
    lines = Path(whole["results"]).read_text()
    out = tmp_path / "killed" / Path(whole["results"]).name
    for _ in range(10):  # on a busy machine it may be done before it is killed
        out.unlink(missing_ok=True)
        process = skald.start(*command, out.parent)
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 3):
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=60)
        if out.stat().st_size < len(lines):
            break
    assert 0 < out.stat().st_size < len(lines)
    with open(out, "r+b") as torn:
        torn.truncate(out.stat().st_size - 7)
    status, printed, err = skald(*command, out.parent, "--json")
    assert status == 0 and " of 150 examples are scored already" in err, err
    assert out.read_text() == lines
    assert json.loads(printed)["tasks"]["copy"] == whole | {"results": str(out)}


@pytest.mark.parametrize(("name", "cuts"), [("question", [0, 1, 2]), ("review", [3])])
def test_scores_are_the_same_to_the_last_bit_wherever_they_are_gone_on_with(run, folder, name, cuts, monkeypatch):
    """Examples that are scored together the first time are scored together again."""
    asked, score = [], task_evaluation.score_continuations
    monkeypatch.setattr(task_evaluation, "BLOCK", 2)
    monkeypatch.setattr(
        task_evaluation, "score_continuations", lambda run, requests: (asked.append(requests), score(run, requests))[1]
    )
    task = read_task(str(folder / f"{name}.toml"))
    found = run.evaluate(tasks=[task], results=folder / "kept")["tasks"][name]
    lines, blocks = Path(found["results"]).read_text().splitlines(keepends=True), list(asked)
    for kept in cuts:
        Path(found["results"]).write_text("".join([*lines[:kept], lines[kept][:-9]]))
        asked.clear()
        again = run.evaluate(tasks=[task], results=folder / "kept")["tasks"][name]
        assert asked and all(requests in blocks for requests in asked)
        assert again == found and sorted(Path(found["results"]).read_text().splitlines(keepends=True)) == sorted(lines)


def test_an_interrupted_evaluation_is_gone_on_with_in_the_same_process(run, folder, monkeypatch, capsys):
    """As in a notebook, which keeps the error and with it all that was in use."""
    task = read_task(str(folder / "question.toml"))
    whole = run.evaluate(tasks=[task], results=folder / "whole")["tasks"]["question"]
    add = ResultsFile.add

    def add_one(file: ResultsFile, result: dict) -> None:
        if file.results:
            raise KeyboardInterrupt
        add(file, result)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:
        patch.setattr(ResultsFile, "add", add_one)
        run.evaluate(tasks=[task], results=folder / "kept")
    found = run.evaluate(tasks=[task], results=folder / "kept")["tasks"]["question"]
    assert "1 of 3 examples are scored already" in capsys.readouterr().err and kept.traceback
    assert found == whole | {"results": found["results"]} and results_of(found) == results_of(whole)


def test_results_belong_to_a_checkpoint_a_task_and_its_records(run, folder):
    def file_name(run, task: Task) -> str:
        prepared = PreparedTask(run, task, TaskWriter(run))
        return prepared.digest

    other = copy.copy(run)
    other.digest = "another"
    task = read_task(str(folder / "question.toml"))
    moved = replace(task, data=str(write_lines(folder / "moved.jsonl", QUESTIONS)))
    assert file_name(run, task) == file_name(run, replace(task)) == file_name(run, moved)
    fewer, longer = replace(task, limit=2), replace(task, template=task.template.replace("{% gen", ".{% gen"))
    names = [file_name(run, task), file_name(other, task), file_name(run, fewer), file_name(run, longer)]
    names.append(file_name(run, replace(task, tokenization="apart")))
    assert len(set(names)) == 5


def test_results_belong_to_the_content_of_a_schemas_file(run, folder):
    pytest.importorskip("llguidance", reason="the optional package llguidance (skald[grammar]) is not installed")
    schema, task = folder / "schema.json", read_task(str(folder / "copy.toml"))
    task = replace(task, sampler=f"json_schema={schema},greedy")
    for kind, allowed in (("boolean", {"true", "false"}), ("null", {"null"})):
        schema.write_text(json.dumps({"type": kind}))
        found = run.evaluate(tasks=[task], results=folder / "kept")["tasks"]["copy"]
        assert {result["output"] for result in results_of(found)} <= allowed
    digest = examples_digest(task, read_examples(task))
    moved = schema.rename(folder / "moved.json")
    assert examples_digest(replace(task, sampler=f"json_schema={moved},greedy"), read_examples(task)) == digest
    with pytest.raises(SamplerError, match=r"task copy: json_schema=.*schema.json: can't read it"):
        examples_digest(task, read_examples(task))


def test_results_belong_to_the_checkpoint_that_a_sampler_names(run_copy, folder):
    task = replace(read_task(str(folder / "copy.toml")), sampler=f"contrast(run={run_copy}@20),greedy")
    digests = [examples_digest(task, read_examples(task))]
    file = run_copy / "checkpoints" / "20" / "about" / "metadata"
    for name in ("scores", "saved"):  # scores are known later, of the same weights
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: {} if name == "scores" else 0.0}))
        digests.append(examples_digest(task, read_examples(task)))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("held", ["my notes, which end without a line break", "my notes\n", '{"digest": "b"}\n'])
def test_a_file_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path, held):
    (tmp_path / "x.jsonl").write_text(held)
    with pytest.raises(DataError, match="no result of this checkpoint and task; move the file away, or name another"):
        ResultsFile(tmp_path / "x.jsonl", "a", 3)
    assert (tmp_path / "x.jsonl").read_text() == held


def test_two_processes_do_not_write_one_file(tmp_path):
    file = ResultsFile(tmp_path / "x.jsonl", "a", 3)
    with pytest.raises(DataError, match="another process writes into it; let it, or name another folder"):
        ResultsFile(tmp_path / "x.jsonl", "a", 3)
    file.close()


# In training


def test_tasks_are_scored_at_intervals_of_training_as_its_checkpoints_are(skald, folder):
    names = ["question", "copy"]
    files = json.dumps([str(folder / f"{name}.toml") for name in names])
    trained = folder / "trained"
    settings = [
        "evaluation.samples=0",
        f"evaluation.tasks={files}",
        "steps=2",
        "evaluation.every=1",
        "checkpoints.every=1",
    ]
    status, _, err = skald("train", skald.config, "--run-dir", trained, *(f"--set={setting}" for setting in settings))
    assert status == 0, err
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all({"tasks/question/accuracy_per_byte", "tasks/copy/accuracy"} <= line.keys() for line in lines)
    found = skald.json("evaluate", trained, "--tasks", ",".join(json.loads(files)))["tasks"]
    for name, value in lines[-1].items():
        if name.startswith("tasks/"):
            _, task, metric = name.split("/")
            assert value == pytest.approx(found[task][metric], abs=1e-6)
    assert Path(found["copy"]["results"]).parent == trained / "tasks" / "2"
    refused, _, err = skald("train", skald.config, "--run-dir", folder / "none", '--set=evaluation.tasks=["sentiment"]')
    assert refused == 2 and "evaluation.tasks: task sentiment names no data" in err and not (folder / "none").exists()


def test_tasks_in_training_keep_no_memory_of_a_device(run, folder):
    """Neither once they are scored nor when they are given up, though Python itself collects nothing meanwhile."""
    evaluation = replace(run.config.evaluation, tasks=(str(folder / "review.toml"),))
    tasks = TrainingTasks(replace(run.config, evaluation=evaluation), run.tokenizer, run.trained_length)
    gc.collect()
    sizes = [sum(x.nbytes for x in jax.live_arrays())]
    gc.disable()
    try:
        for examples in (len(REVIEWS) + 1, 3, 100):
            computed = tasks.scores(run.model)
            *_, found = itertools.islice(computed, examples)
            computed.close()
            sizes.append(sum(x.nbytes for x in jax.live_arrays()))
    finally:
        gc.enable()
    assert len(set(sizes)) == 1 and "tasks/review/accuracy" in found


# Task files


def test_bad_input_is_refused_with_one_line(skald, trained_run, folder):
    good, cases = folder / "question.toml", []

    def case(status: int, said: str, *arguments) -> None:
        cases.append((status, said, ["evaluate", trained_run, *arguments]))

    def of_file(number: int, content: str) -> list:
        (folder / f"bad{number}.toml").write_text(content)
        return ["--tasks", folder / f"bad{number}.toml"]

    case(2, "file's path; did you mean 'sentiment'?", "--tasks", "sentimnt")
    case(2, "no task in TOML can be read (No such file", "--tasks", "nowhere.toml")
    case(2, "bad1.toml: Task needs template", *of_file(1, 'metric = "cloze"\n'))
    case(
        2,
        "bad2.toml: no field 'choises'; did you mean 'choices'",
        *of_file(2, QUESTION.replace("choices =", "choises =")),
    )
    case(2, "bad3.toml: limit: expected an integer or null, got 'x'", *of_file(3, f'{QUESTION}limit = "x"\n'))
    case(2, "task bad4: no metric 'clozze'; there are", *of_file(4, LAST_WORD.replace("cloze", "clozze")))
    case(2, "needs choices: a list of answers", *of_file(5, QUESTION.replace('choices = "choices"', "")))
    case(1, "task bad6: template: no response", *of_file(6, 'data="x"\nmetric="cloze"\ntemplate="{{ question }}"\n'))
    case(1, "questions.jsonl:1: no field 'query'; there: 'question', 'choices', 'answer'; task bad7 names it in its",
         *of_file(7, QUESTION.replace("{{ question", "{{ query")))  # fmt: skip
    case(1, "questions.jsonl:1: the answer 'no man at all' is none of the choices 'my king', 'I'",
         *of_file(8, QUESTION.replace('"choices"', '["my king", "I"]')))  # fmt: skip
    case(1, "field 'question' is no list of texts", *of_file(9, QUESTION.replace('"choices"', '"question"')))
    case(
        2,
        "greeedy': no link 'greeedy'; did you mean 'greedy'?",
        *of_file(10, COPY.replace("greedy", "greeedy")),
    )
    case(
        2,
        "task copy: nowhere: no such folder",
        "--tasks",
        folder / "copy.toml",
        "--set",
        "copy.sampler=contrast(run=nowhere),greedy",
    )
    case(1, "empty.jsonl: no text, the file is empty", "--tasks", good, "--set", "question.data=empty.jsonl")
    case(1, "head.tsv: no records in it", "--tasks", folder / "review.toml", "--set", f"review.data={folder}/head.tsv")
    case(1, "odd.jsonl:1: character 'é' (U+00E9)", "--tasks", good, "--set", f"question.data={folder}/odd.jsonl")
    case(1, f"task copy does not go with the tokenizer of {trained_run}", "--tasks", folder / "copy.toml", "--set",
         f"copy.data={folder}/odd.jsonl")  # fmt: skip
    case(1, "an answer of 41 tokens", "--tasks", good, "--set", f"question.data={folder}/long.jsonl")
    case(
        2,
        "task sentiment names no data; name them in the file, or for evaluate as --set sentiment.data=FILE",
        "--tasks",
        "sentiment",
    )
    case(
        2,
        "task question: --set limt: no such field; did you mean 'limit'?",
        "--tasks",
        good,
        "--set",
        "question.limt=3",
    )
    case(2, "did you mean 'question'?", "--tasks", good, "--set", "questoin.limit=3")
    case(2, "one of its choices is empty", "--tasks", good, "--set", 'question.choices=["a", " "]')
    case(2, "2 of its choices are 'a'", "--tasks", good, "--set", 'question.choices=["a", " a"]')
    case(1, "field 'choices' is no list of texts", "--tasks", good, "--set", f"question.data={folder}/none.jsonl")
    case(1, "half.jsonl:2: '\\ud83d' at offset 1 of ' \\ud83d' is half of a surrogate pair", "--tasks",
         folder / "copy.toml", "--set", f"copy.data={folder}/half.jsonl", "--set",
         "copy.template=x{% generation %} {{ choices[1] }}{% endgeneration %}")  # fmt: skip
    case(1, "half.jsonl:2: '\\ud83d' at offset 0 of '\\ud83d' is half", "--tasks", good, "--set",
         f"question.data={folder}/half.jsonl", "--set", "question.template=x{% generation %} b{% endgeneration %}",
         )  # fmt: skip
    case(2, "limit is 0; it must be at least 1", "--tasks", good, "--set", "question.limit=0")
    case(2, "name the task with --tasks", "--set", "question.limit=3")
    case(2, "--results keeps what tasks find", "--results", "x")
    case(2, "two tasks are named 'question'", "--tasks", f"{good},{good}")
    case(1, "questions.jsonl: can't write there (File exists); name another folder with --results", "--tasks", good,
         "--results", folder / "questions.jsonl")  # fmt: skip
    (skald.folder / "empty.jsonl").write_text("")
    (folder / "head.tsv").write_text("label\ttext\n")
    write_lines(folder / "odd.jsonl", [{"question": "né", "choices": ["a", "b"], "answer": 0}])
    write_lines(folder / "long.jsonl", [{"question": "a", "choices": ["a", "b" * 40], "answer": 0}])
    write_lines(folder / "none.jsonl", [{"question": "a", "choices": [], "answer": 0}])
    good_one, half = ({"question": "a", "choices": ["b", text]} for text in ("c", "\ud83d"))
    write_lines(folder / "half.jsonl", [good_one, half])
    results = skald.run_many([arguments for *_, arguments in cases])
    for (status, said, arguments), (returned, out, err) in zip(cases, results, strict=True):
        assert (returned, out) == (status, ""), (arguments, err)
        assert said in err and err.startswith("skald: ") and err.count("\n") == 1, (said, err)


def test_every_field_of_a_task_can_be_set(folder):
    settings = ['question.choices=["a", "b"]', "question.limit=2", "question.tokenization=apart", 'question.stop=["x"]']
    (task,) = read_tasks([str(folder / "question.toml")], settings)
    assert (task.choices, task.limit, task.tokenization, task.stop) == (("a", "b"), 2, "apart", ("x",))
    assert task.data == str(folder / "questions.jsonl"), "relative to the file"
    with pytest.raises(ConfigError, match="tokenization: expected one of together, apart"):
        read_tasks([str(folder / "question.toml")], ["question.tokenization=both"])


RECORDS = {
    "sentiment": [{"content": "so good", "label": 1}],
    "translation": [{"en": "A dog.", "de": "Ein Hund."}],
    "lambada": [{"text": "The old man and the sea"}],
    "multiple_choice": [{"question": "Two?", "choices": ["2", "3"], "answer": 0},
                        {"question": "Two?", "choices": ["3", "2"], "answer": "2"}],
}  # fmt: skip
ANSWERS = {"sentiment": " good", "translation": "Ein Hund.", "lambada": " sea", "multiple_choice": " 2"}


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_tasks_that_come_with_the_program_read_their_records(name, tmp_path):
    data = write_lines(tmp_path / "records.jsonl", RECORDS[name])
    (task,) = read_tasks([name], [f"{name}.data={data}"])
    for example in read_examples(task):
        assert example.answer == ANSWERS[name] and example.prompt
        assert not example.choices or example.choices[example.label] == ANSWERS[name].strip()


def read_me_task(folder: Path) -> Task:
    """The task that README shows."""
    (shown,) = re.findall(r'```\n(data = "dev.tsv"\n.*?)```', (SHIPPED.parents[1] / "README.md").read_text(), re.DOTALL)
    (folder / "shown.toml").write_text(shown)
    return read_task(str(folder / "shown.toml"))


@pytest.mark.parametrize("label", ["positive", "-1", -1, "2", 2, "", "0x1", "1.0", 1.5, True, None, [1]])
def test_a_label_outside_the_set_is_an_error_of_its_record(label, tmp_path):
    """GLUE has -1 where there is no label. No label may count from the end, or stand for the first choice."""
    record = {"text": "x", "content": "x", "sentence": "x", "question": "x", "choices": ["bad", "good"]}
    good = [record | {"label": label, "answer": label} for label in (0, 1)]
    data = write_lines(tmp_path / "records.jsonl", [*good, record | {"label": label, "answer": label}])
    labels = {
        "sentiment": "0 'bad', 1 'good'",
        "multiple_choice": "0 'bad', 1 'good'",
        "shown": "0 'negative', 1 'posi",
    }
    for task in (read_task("sentiment"), read_task("multiple_choice"), read_me_task(tmp_path)):
        task = replace(task, data=str(data))
        assert [example.label for example in read_examples(replace(task, limit=2))] == [0, 1]
        if not (task.name == "shown" and label == "positive"):  # which is one of its labels
            said = f"records.jsonl:3: the label {label!r} is none of those there are: {labels[task.name]}"
            with pytest.raises(DataError, match=re.escape(said)):
                read_examples(task)
    training = Template(sentiment.REVIEW)
    assert [training.response(record) for record in good] == [" bad", " good"]
    with pytest.raises(DataError, match=r"can't be filled in|a value that is null"):
        training.response(record | {"label": label})


def test_a_template_that_writes_another_answer_than_the_label_says_is_refused(folder):
    """And text for a number is, which Jinja's own filter takes for 0."""
    write_lines(folder / "words.jsonl", [{"text": "x", "label": "bad"}, {"text": "x", "label": "good"}])
    task = replace(read_task(str(folder / "review.toml")), data=str(folder / "words.jsonl"))
    with pytest.raises(DataError, match="jsonl:1: the template wants a whole number, and 'bad' is none"):
        read_examples(task)
    task = replace(task, label="label", template="{{ text }}{% generation %} bad{% endgeneration %}")
    with pytest.raises(DataError, match="jsonl:2: the template of task review writes 'bad' for the label 'good'"):
        read_examples(task)
    right = replace(task, template="{{ text }}{% generation %} {{ label }}{% endgeneration %}")
    assert [example.label for example in read_examples(right)] == [0, 1]
    with pytest.raises(ConfigError, match="label is 'label', and there are no choices that it could name"):
        read_tasks([str(folder / "copy.toml")], ["copy.label=label"])


def test_real_data_are_read_whole(corpora):
    data = {"sentiment": corpora / "sentiment" / "dev.tsv", "translation": corpora / "translation" / "val.{en,de}"}
    tasks = read_tasks(list(data), [f"{name}.data={path}" for name, path in data.items()])
    sentiment, translation = map(read_examples, tasks)
    assert (len(sentiment), sum(example.label for example in sentiment), len(translation)) == (872, 444, 1014)
    assert translation[0].answer == "Eine Gruppe von Männern lädt Baumwolle auf einen Lastwagen"
