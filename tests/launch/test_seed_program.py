"""The program that this project began with: a checkpoint, encode a prompt, generate at most 50 tokens, decode.

The texts are those of transformers' `generate`, for a GPT-2 of random weights with the tokenizer of the real one.
"""

import json
import shutil

import pytest

from launch.api import load

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

pytestmark = pytest.mark.timeout(300)
PROMPTS = [
    "Hello, my name is", "The quick brown fox", "Once upon a time", "In the beginning", "Alan Turing was",
    "def main():\n    ", "2 + 2 =", "To be, or not to be", "  leading spaces", "trailing space ",
    "naïve café", "東京は", "🙂 smile", "line one\nline two\n", "ALL CAPS!", "don't won't can't", "a", "\t\ttabs",
    "https://example.org/?q=1", "The end. ",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpora):
    """A GPT-2 checkpoint as transformers writes it: the real vocabulary, a small width."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_head=4, n_layer=3, n_positions=128, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("seed") / "gpt2"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(corpora / "gpt2_bpe" / name, folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder) -> list[str]:
    """What transformers writes, greedily, behind each prompt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**given, do_sample=False, max_new_tokens=50, pad_token_id=50256)[0]
        texts.append(tokenizer.decode(ids))
    return texts


@pytest.fixture(scope="module")
def run(skald, folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("seed") / "run"
    assert skald.json("import", folder, run)["tokenizer"] == "gpt2"
    return run


def test_generate_writes_the_texts_of_transformers(skald, run, expected, tmp_path):
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    request = ["--sampler", "greedy", "--max-new-tokens", "50"]
    samples = skald.json("generate", run, "--prompts", tmp_path / "prompts.jsonl", *request)["samples"]
    assert [sample["prompt"] + sample["text"] for sample in samples] == expected
    status, out, _ = skald("generate", run, "--prompt", PROMPTS[0], *request)
    assert status == 0 and out == expected[0] + "\n"


def test_so_does_the_program_in_python(run, expected):
    gpt2 = load(str(run))
    for prompt, text in zip(PROMPTS, expected, strict=True):
        (sample,) = gpt2.generate(prompt, sampler="greedy", max_new_tokens=50)
        assert prompt + sample["text"] == text and 0 < len(sample["tokens"]) <= 50


def test_the_texts_are_not_all_one_token(expected):
    assert all(len(set(text[len(prompt) :])) > 3 for prompt, text in zip(PROMPTS, expected, strict=True))
