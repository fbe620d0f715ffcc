"""`skald tokenizer`: from files to a .model that `train` takes, and what it refuses, in one line each."""

import json
import re

import pytest
import sentencepiece

from data.config import Tokenizer as Config
from data.tokenizers.tokenizer import build_tokenizer

TEXTS = [f"Tale {i}: the {who} sat on the mat.\n\nThe end." for i, who in enumerate(["cat", "dog", "cow"] * 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tales")
    (made / "tales.jsonl").write_text("".join(json.dumps({"story": text}) + "\n" for text in TEXTS))
    (made / "tale.txt").write_text("\n".join(TEXTS))
    (made / "empty.txt").write_text("\n\n")
    return made


def test_files_become_a_tokenizer_that_training_takes(fresh, folder, tmp_path):
    out = tmp_path / "tales.model"
    command = ("tokenizer", folder / "tales.jsonl", folder / "tale.txt", "--field", "story", "--vocab-size", 300)
    result = fresh.json(*command, "--out", out)
    size = sum(len(line) for text in TEXTS for line in text.split("\n"))
    assert result | {"bytes_per_token": 0} == {
        "path": str(out), "kind": "bpe", "vocab_size": 300, "bytes_per_token": 0,
        "lines": 4 * len(TEXTS), "bytes": 2 * size, "lines_read": 4 * len(TEXTS), "bytes_read": 2 * size,
    }  # fmt: skip
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(out)).encode([x for t in TEXTS for x in t.split("\n")])
    assert result["bytes_per_token"] == pytest.approx(size / sum(map(len, tokens)))
    tokenizer = build_tokenizer(Config("sentencepiece", str(out)), [])
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    assert list(tmp_path.iterdir()) == [out]


def test_it_says_what_it_does_and_how_to_train_with_the_result(skald, folder, tmp_path):
    out = tmp_path / "my tales.model"
    command = ["tokenizer", folder / "tale.txt", "--out", out, "--kind", "unigram", "--vocab-size", 290]
    status, printed, err = skald(*command, "--sample-bytes", 2000)
    assert status == 0
    assert re.fullmatch(
        r"reading 1 file, 5\.\d\d kB\n"
        r"training unigram, 290 tokens, on \d+ lines, 1\.\d\d kB, "
        r"drawn from 240 lines, 4\.\d\d kB \(--sample-bytes\)\n",
        err,
    ), err
    assert f"--set data.tokenizer.path='{out}'" in printed and "290 tokens" in printed


def test_what_it_can_not_do_is_said_in_one_line_and_leaves_no_file(skald, folder, tmp_path):
    out, there = tmp_path / "out.model", tmp_path / "there.model"
    there.write_text("mine")
    tales = folder / "tales.jsonl"
    cases = [  # arguments, exit status, the line
        ([folder / "tails.jsonl", "--out", out], 1, rf"tails.jsonl: no such file.*did you mean {tales}"),
        ([folder / "tale.txt", folder / "none", "--out", out], 1, "none: no such file"),
        ([tales, "--out", out], 1, r"tales.jsonl:1: no field 'text'; there: 'story'; --field NAME names another"),
        ([folder / "empty.txt", "--out", out], 1, "no text to train a tokenizer on"),
        ([folder / "tale.txt", "--out", out, "--vocab-size", 10], 2, r"10 tokens is too small: .* are \d+, the least"),
        ([folder / "tale.txt", "--out", out, "--vocab-size", 9000], 2, r"9000 tokens is too large .* \d+ is the most"),
        ([folder / "tale.txt", "--out", out, "--sample-bytes", 10], 2, "a sample of 10 bytes holds no line"),
        ([folder / "tale.txt", "--out", there], 2, r"there.model: is there already; --force"),
        ([folder / "tale.txt", "--out", tmp_path], 2, "is a folder; name a file in it"),
        ([folder / "tale.txt", "--out", tmp_path / "no" / "x.model"], 2, f"there is no folder {tmp_path / 'no'}"),
        ([folder / "tale.txt", "--out", "/proc/x.model"], 2, r"--out /proc/x.model: can't be written \("),
    ]
    results = skald.run_many([["tokenizer", *arguments] for arguments, _, _ in cases])
    for (arguments, status, line), (ended, printed, err) in zip(cases, results, strict=True):
        assert (ended, printed) == (status, ""), (arguments, err)
        assert re.search(f"skald: .*{line}.*\n$", err) and "Traceback" not in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["there.model"] and there.read_text() == "mine"
    status, _, err = skald("tokenizer", folder / "tale.txt", "--out", out, "--kind", "word")
    assert status == 2 and "invalid choice: 'word'" in err
    status, _, err = skald("tokenizer", folder / "tale.txt", "--out", there, "--vocab-size", 300, "--force")
    assert status == 0 and sentencepiece.SentencePieceProcessor(model_file=str(there)).vocab_size() == 300, err
