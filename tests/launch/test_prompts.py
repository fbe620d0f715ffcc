"""`skald generate --prompts`: many requests at once, each as alone; files that are gone on with; drafts, invariance."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.tokenizers.byte_level import Bytes
from data.tokenizers.streaming import IncrementalDecoder
from launch.inference import grammar
from launch.inference.answers_file import AnswersFile, answer_lines, request_digest
from launch.inference.prompts_file import read_requests
from launch.inference.request import TextRequest
from launch.inference.text import TextSample
from launch.inference.text_engine import SLOTS, TextAnswer, TextEngine
from model.config import MLP, Attention, Block, Init, Model, Rope, Stack
from model.decode.chain import Chain
from model.decode.completion import Completion
from model.decode.speculation import DraftModel, PromptLookup
from model.transformer import Transformer
from train.run import RunError

pytestmark = pytest.mark.timeout(300)


def lines_of(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def write_lines(file: Path, values: list) -> Path:
    file.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
    return file


@pytest.fixture(scope="module")
def run(trained_run):
    from launch.api import load

    return load(str(trained_run))


# Answers


SPECIAL = [
    {"prompt": "KING ", "seed": 9, "max_new_tokens": 45, "id": "first"},
    {"prompt": "The", "sampler": "beam=2", "max_new_tokens": 8, "id": 3},
    {"prompt": "A", "sampler": [{"name": "temperature", "value": 0.7}, {"name": "top_p", "p": 0.9}], "num_samples": 3},
    {"prompt": "A", "sampler": "greedy", "stop": ["e", "o"]},
]
OPTIONS = ["--max-new-tokens", "12"]
REQUESTS = [*SPECIAL, *({"prompt": "ABCDEFGH"[i % 8], "seed": 2**40 + i} for i in range(90))]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", REQUESTS)


@pytest.fixture(scope="module")
def answers(skald, trained_run, prompts) -> Path:
    """The answers of an undisturbed run."""
    status, out, err = skald("generate", trained_run, "--prompts", prompts, *OPTIONS, "--out", prompts.parent / "out")
    assert (status, out) == (0, "") and err.count("\n") == 1 and err.startswith("[94 prompts, "), err
    return prompts.parent / "out"


def test_each_request_of_a_file_is_answered_in_its_order_as_alone(answers, run):
    lines = lines_of(answers.read_text())
    assert [line["seed"] for line in lines[6:]] == [2**40 + i for i in range(90)]
    assert [line.get("id") for line in lines[:6]] == ["first", 3, None, None, None, None]
    assert [line.get("sample") for line in lines[:6]] == [None, None, 0, 1, 2, None]
    for value in REQUESTS[:7]:
        options = {"max_new_tokens": 12} | {name: own for name, own in value.items() if name != "id"}
        if isinstance(options.get("sampler"), list):
            options["sampler"] = json.dumps(options["sampler"])
        for sample in run.generate(**options):
            line = lines.pop(0)
            for name in ("prompt", "text", "tokens", "finish_reason", "seed", "sampler", "chain"):
                assert line[name] == sample[name]


def test_what_can_not_be_served_is_a_line_with_an_error_and_the_others_are_written(skald, trained_run, run, tmp_path):
    every = json.dumps([[i] for i in range(65)])
    values = [
        "A", "naïve", "x" * 32, {"prompt": "B", "sampler": f"banned_words={every}"}, {"prompt": "", "id": 5},
        {"prompt": "A", "sampler": 'banned_words="é"'}, {"prompt": "The", "sampler": "beam=2,stop_tokens=99"}, "A",
    ]  # fmt: skip
    file = write_lines(tmp_path / "prompts.jsonl", values)
    status, out, err = skald("generate", trained_run, "--prompts", file, "--max-new-tokens", "9")
    assert status == 1 and err.splitlines()[-1] == (
        'skald: 6 of 8 prompts could not be served; "error" in their lines says why'
    )
    lines = lines_of(out)
    assert [line["prompt"] for line in lines] == [v if isinstance(v, str) else v["prompt"] for v in values]
    parts = [
        None,
        "'ï' (U+00EF) at offset 2",
        "32 tokens",
        "left no token",
        "the prompt is empty",
        "'é'",
        "id 99",
        None,
    ]
    for line, part in zip(lines, parts, strict=True):
        assert part in line["error"] if part else "error" not in line
    assert lines[4].keys() == {"request", "id", "prompt", "seed", "sampler", "error"}
    assert lines[0]["text"] == lines[-1]["text"] == run.generate("A", max_new_tokens=9)[0]["text"]
    again, _, _ = skald("generate", trained_run, "--prompts", file, "--sampler", 'banned_words="é"')
    assert again == 2, "the command's own sampler is wrong for every prompt"


def test_a_stop_text_ends_the_engines_work_on_its_text(run):
    (free,) = run.generate("A", max_new_tokens=200, seed=5)
    engine, stop = run.engine, free["text"][3:6]
    read = engine.engine.tokens_read
    (answer,) = engine.answers([TextRequest("A", run.sampler, 200, 5, stop=(stop,))])
    (sample,) = answer.samples
    assert (sample.text, sample.finish_reason) == (free["text"][: free["text"].index(stop)], "stop")
    engine.step()
    assert not engine.engine.busy and engine.engine.tokens_read - read < 60


def test_more_samples_than_the_engine_queues_are_written(run):
    (answer,) = run.engine.answers([TextRequest("A", run.sampler, 4, 1, num_samples=150)])
    alone = run.generate("A", max_new_tokens=4, seed=1, num_samples=2)
    assert [sample.text for sample in answer.samples[:2]] == [sample["text"] for sample in alone]
    assert len(answer.samples) == 150 and all(len(sample.completion.tokens) == 4 for sample in answer.samples)


class Failing:
    """A matcher that allows all, and fails behind two tokens, as one does that reaches the limits of its library."""

    finished, count = False, 0

    def mask(self) -> np.ndarray:
        return np.full(3, 2**32 - 1, np.uint32)

    def accept(self, token: int) -> None:
        self.count += 1
        if self.count == 2:
            raise RunError("the grammar can't be followed")


def test_a_grammar_that_can_not_be_followed_ends_its_own_text_alone(run, monkeypatch):
    monkeypatch.setattr(grammar, "new_matcher", lambda *_: Failing())
    asked = [TextRequest("A", "regex=x,greedy", 9), TextRequest("A", run.sampler, 9)]
    constrained, free = run.engine.answers(asked)
    (line,) = constrained.to_json()
    assert len(line["tokens"]) == 2 and 'regex="x" left no token to draw behind 2 new ones' in line["error"]
    assert free.samples[0].text == run.generate("A", max_new_tokens=9)[0]["text"]


def test_many_requests_from_python(run):
    answers = list(run.generate_many(["A", {"prompt": "KING", "seed": 3}, "é"], max_new_tokens=6))
    alone = [*run.generate("A", max_new_tokens=6), *run.generate("KING", seed=3, max_new_tokens=6)]
    for (found,), expected in zip(answers[:2], alone, strict=True):
        assert found["text"] == expected["text"] and found.keys() == expected.keys()
        assert found["logprobs"] == pytest.approx(expected["logprobs"], abs=1e-4)
    assert "'é'" in answers[2][0]["error"] and len(answers) == 3
    with pytest.raises(DataError, match="request 1: a request has no 'sed'; did you mean 'seed'"):
        list(run.generate_many(["A", {"prompt": "B", "sed": 3}]))


# Requests


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"prompt": "a", "max_tokens": 5}', "no 'max_tokens'; did you mean 'max_new_tokens'?"),
        ('{"prompt": "a", "zzz": 5}', "no 'zzz'; a request has prompt, sampler, max_new_tokens, seed"),
        ('{"prompt": "a", "seed": 1.5}', "seed is 1.5; it takes a whole number"),
        ('{"prompt": "a", "seed": true}', "seed is true; it takes a whole number"),
        ('{"prompt": "a", "num_samples": 0}', "num_samples is 0; it takes a whole number from 1"),
        ('{"prompt": "a", "stop": ["b", ""]}', 'stop is ["b", ""]; it takes a text that is not empty'),
        ('{"prompt": "a", "sampler": 5}', 'sampler is 5; it takes a chain, as "temperature=0.8'),
        ('{"prompt": "a", "sampler": "top_q=3"}', "no link 'top_q'; did you mean 'top_p'?"),
        ('{"prompt": "a", "sampler": [{"name": "top_k", "k": 0}]}', "top_k is 0"),
        ('{"prompt": "a", "id": null}', "id is null; it takes a text or a whole number"),
    ],
)
def test_a_line_that_is_no_request_is_refused_with_what_would_work(tmp_path, line, said):
    (tmp_path / "prompts.jsonl").write_text(f'"a"\n{line}\n')
    with pytest.raises(DataError) as error:
        read_requests(tmp_path / "prompts.jsonl", TextRequest(""))
    assert f"{tmp_path / 'prompts.jsonl'}:2: " in str(error.value) and said in str(error.value)


# Files that are gone on with


def test_after_a_kill_every_prompt_is_answered_once(skald, trained_run, prompts, answers, tmp_path):
    """Killed while it writes, then torn in the middle of a line: the same command ends with the undisturbed file."""
    command, out = ["generate", trained_run, "--prompts", prompts, *OPTIONS, "--out"], tmp_path / "out"
    for _ in range(10):  # on a busy machine it may be done before it is killed
        out.unlink(missing_ok=True)
        process = skald.start(*command, out)
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 3):
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=60)
        if out.stat().st_size < answers.stat().st_size:
            break
    assert 0 < out.stat().st_size < answers.stat().st_size
    with open(out, "r+b") as torn:
        torn.truncate(out.stat().st_size - 7)
    status, printed, err = skald(*command, out)
    assert (status, printed) == (0, "") and " of 94 prompts are answered in" in err, err
    assert out.read_bytes() == answers.read_bytes()
    status, _, err = skald(*command, out, "--seed", "5")
    assert status == 1 and f"{out}:2: this line is no answer to prompt 2 as it is asked now" in err
    assert out.read_bytes() == answers.read_bytes()


@pytest.mark.parametrize("change", [{"prompt": "b"}, {"sampler": "top_k=1"}, {"max_new_tokens": 6}, {"seed": 1},
                                    {"num_samples": 2}, {"stop": ("b",)}, {"id": "x"}])  # fmt: skip
def test_a_digest_changes_with_each_part_of_a_request(change):
    request = TextRequest("a", "greedy", 5)
    assert request_digest(request, {}) == request_digest(replace(request), {})
    assert request_digest(request, {}) != request_digest(replace(request, **change), {})
    assert request_digest(request, {}) != request_digest(request, {"checkpoint": "another"})


ASKED = [TextRequest("a", "greedy", 5, num_samples=n, id=n) for n in (1, 3, 2, 1)]
DIGESTS = [request_digest(request, {}) for request in ASKED]


def answer(request: TextRequest) -> TextAnswer:
    """The last request can't be served, the others have an answer."""
    if request is ASKED[2]:
        return TextAnswer(request, error="no")
    samples = [TextSample("a", Chain(), 0, IncrementalDecoder(Bytes())) for _ in range(request.num_samples)]
    for sample in samples:
        sample.extend(Completion([98, 10], [-1.0, -1.0], finish_reason="length"))
    return TextAnswer(request, samples)


LINES = ["".join(answer_lines(answer(r), digest, False)) for r, digest in zip(ASKED, DIGESTS, strict=True)]
WHOLE = "".join(LINES)


@given(st.integers(0, len(WHOLE)))
@settings(deadline=None, max_examples=60)
def test_a_file_torn_anywhere_keeps_the_requests_that_are_answered_as_a_whole(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    path.write_text(WHOLE[:cut])
    file = AnswersFile(path, ASKED, DIGESTS)
    ends = [len("".join(LINES[:n])) for n in range(5)]
    assert file.done == max(n for n in range(5) if ends[n] <= cut) and file.failed == (file.done > 2)
    assert path.stat().st_size == ends[file.done]
    for lines in LINES[file.done :]:
        file.write([lines])
    assert path.read_text() == WHOLE


@pytest.mark.parametrize("held", ["my notes, which end without a line break", "my notes\n", "{}\n", WHOLE + "x"])
def test_a_file_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path, held):
    (tmp_path / "out.jsonl").write_text(held)
    with pytest.raises(DataError, match="name another --out"):
        AnswersFile(tmp_path / "out.jsonl", ASKED, DIGESTS)
    assert (tmp_path / "out.jsonl").read_text() == held


def test_two_processes_do_not_write_one_file(tmp_path):
    file = AnswersFile(tmp_path / "out.jsonl", ASKED, DIGESTS)
    with pytest.raises(DataError, match="another process writes into it"):
        AnswersFile(tmp_path / "out.jsonl", ASKED, DIGESTS)
    file.file.close()
    AnswersFile(tmp_path / "out.jsonl", ASKED, DIGESTS)


# Drafts, invariance, the cache


def test_drafted_text_is_the_same_and_acceptance_is_said():
    block = Block(Attention(2, 1, 8, rope=Rope()), MLP(16))
    model = Transformer(Model(256, 16, 64, (Stack((block,), 1),), init=Init(embedding=0.7)), jax.random.key(0))
    draft = DraftModel(model, vocab_size=256, context=64, slots=SLOTS)
    request, texts = TextRequest("to be, or not to be, or ", "temperature=0.7", 30, seed=1), set()
    for drafter in (None, PromptLookup(), draft):
        engine = TextEngine(model, Bytes(), 64, [], drafter=drafter, drafts=3)
        *_, (sample,) = engine.stream(request)
        texts.add(sample.text)
        if drafter:
            assert engine.drafted and f" of {engine.drafted} drafts accepted (" in engine.summary(1.0)
    assert len(texts) == 1 and engine.accepted == engine.drafted, "the model drafts for itself"


def test_invariant_text_has_the_same_bits_alone_and_among_others(skald, trained_run, tmp_path):
    options = ["--invariant", "--logprobs", "--max-new-tokens", "20", "--seed", "4"]
    status, out, err = skald("generate", trained_run, "--prompt", "ROMEO:", *options, "--json")
    (alone,) = json.loads(out)["samples"]
    assert status == 0 and "tokens/s, in invariant tiles of " in err
    file = write_lines(tmp_path / "prompts.jsonl", ["KING", "A", {"prompt": "The", "sampler": "beam=2"}, "ROMEO:", "B"])
    status, out, _ = skald("generate", trained_run, "--prompts", file, *options)
    lines = lines_of(out)
    assert status == 1 and "which invariant mode can't" in lines[2]["error"]
    assert alone == {name: value for name, value in lines[3].items() if name != "request"}


def test_an_int8_cache_changes_little(skald, trained_run, run):
    command = ["generate", trained_run, "--prompt", "ROMEO:", "--max-new-tokens", "9", "--logprobs"]
    (small,) = skald.json(*command, "--kv-cache", "int8")["samples"]
    (plain,) = run.generate("ROMEO:", max_new_tokens=9)
    assert plain["logprobs"][0] == pytest.approx(small["logprobs"][0], abs=0.1)
    assert abs(plain["logprobs"][0] - small["logprobs"][0]) > 1e-5


COUNT_COMPILES = """
import collections, sys
from launch.machine import setup
prepare, counts = setup.prepare, collections.Counter()
def prepare_and_count(*arguments):
    prepare(*arguments)
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small programs are kept, too
    jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
setup.prepare = prepare_and_count
from launch.cli import main
main(sys.argv[1:])
print(counts["compile_requests_use_cache"], counts["cache_hits"])
"""


@pytest.mark.slow(30)
def test_a_second_process_compiles_nothing(skald, trained_run, tmp_path):
    file = write_lines(tmp_path / "prompts.jsonl", ["A", "ROMEO:", {"prompt": "B", "sampler": "greedy"}])
    command = ["generate", trained_run, "--prompts", file, "--max-new-tokens", "9", "--out"]
    found = []
    for name in ("first", "second"):
        process = subprocess.run(
            [sys.executable, "-c", COUNT_COMPILES, *map(str, command), tmp_path / name], cwd=ROOT,
            env=skald.environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        found.append([int(number) for number in process.stdout.split()])
    assert found[1][0] == found[1][1] == found[0][0] > 3
