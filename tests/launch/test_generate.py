"""`skald generate`: what it prints, in which form, and that its text follows the model's logits."""

import itertools
import json
from pathlib import Path

import pytest

from data.errors import DataError
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.streaming import IncrementalDecoder
from launch.arguments import argument_parser
from launch.inference.prompts_file import read_requests
from launch.inference.request import TextRequest
from launch.inference.text import TextSample, encode_prompt
from model.decode.chain import KINDS, Chain
from model.decode.completion import Completion
from model.decode.prompts import PromptError

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
KEYS = {"prompt", "text", "tokens", "finish_reason", "seed", "sampler", "chain"}
LOGPROBS = {"logprobs", "chain_logprobs", "choice_logprobs", "truncated"}


@pytest.fixture(scope="module")
def characters() -> list[str]:
    """Every character of the corpus, sorted: the index is a character tokenizer's id."""
    return sorted(set((ROOT / "data" / "corpora" / "tinyshakespeare.txt").read_text()))


def test_json_has_the_keys_of_the_contract(skald, trained_run, characters):
    result = skald.json("generate", trained_run, "--prompt", "ROMEO:", "--max-new-tokens", "50", "--num-samples", "3",
                        "--seed", "7", "--sampler", "top_k=9, temperature=0.80", "--logprobs")  # fmt: skip
    assert result["step"] == 40 and len(result["samples"]) == 3
    energy = result["energy"]
    assert energy["tokens"] == 150 and (energy["joules_per_token"] is None) == (energy["method"] == "unmeasured")
    for sample in result["samples"]:
        assert sample.keys() == KEYS | LOGPROBS
        assert (sample["prompt"], sample["seed"], sample["finish_reason"]) == ("ROMEO:", 7, "length")
        assert sample["sampler"] == "top_k=9,temperature=0.8"
        assert sample["chain"] == [{"name": "top_k", "k": 9}, {"name": "temperature", "value": 0.8}]
        assert {len(sample[name]) for name in ("tokens", "text", *LOGPROBS)} == {50}
        assert sample["chain_logprobs"] == sample["choice_logprobs"]
        assert all(0 < mass < 1 for mass in sample["truncated"])
        assert sample["text"] == "".join(characters[token] for token in sample["tokens"])
    assert len({sample["text"] for sample in result["samples"]}) == 3


def test_the_readme_names_every_part_of_a_chain_and_the_help_names_the_readme(capsys):
    writing = (ROOT / "README.md").read_text().partition("## Writing")[2].partition("\n## ")[0]
    assert [name for name in KINDS if f"`{name}`" not in writing] == []
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["generate", "--help"])
    assert "README.md, Writing" in " ".join(capsys.readouterr().out.split())


def test_text_on_a_terminal_is_the_text_of_json_and_goes_past_the_context(skald, fresh, trained_run):
    """The context is 32: 70 tokens need several windows."""
    arguments = ["generate", trained_run, "--prompt", "KING ", "--max-new-tokens", "70", "--seed", "3"]
    (sample,) = skald.json(*arguments)["samples"]
    status, out, err = fresh(*arguments)
    assert status == 0 and out == sample["prompt"] + sample["text"] + "\n"
    assert err.strip() == "[temperature=0.8,top_p=0.95, seed 3]"


def test_a_stop_text_ends_the_text_before_it(skald, trained_run):
    arguments = ["generate", trained_run, "--prompt", "A", "--max-new-tokens", "60", "--seed", "5"]
    (free,) = skald.json(*arguments)["samples"]
    stop = free["text"][20:22]
    (stopped,) = skald.json(*arguments, "--stop", stop, "--stop", "never written")["samples"]
    assert stopped["text"] == free["text"][: free["text"].index(stop)]
    assert stopped["finish_reason"] == "stop"
    assert stopped["tokens"] == free["tokens"][: len(stopped["text"])], "a character is a token here"
    status, out, err = skald(*arguments, "--stop", "")
    assert (status, out) == (2, "") and "a stop text is empty" in err


@pytest.mark.parametrize(
    "tokenizer, text, stop, num_kept",
    [
        (Bytes(), "né!? and more", "!", 3),  # é has two bytes
        (Bytes(), "né!? and more", "é", 1),
        (Bytes(), "né!? and more", "n", 0),
        (Characters(" !?admnore"), "a dream", "ream", 3),
    ],
)
def test_tokens_end_where_a_stop_text_begins(tokenizer, text, stop, num_kept):
    ids = tokenizer.encode(text)
    sample = TextSample("", Chain(), 0, IncrementalDecoder(tokenizer), [stop])
    for piece in (ids[:4], ids[4:]):
        sample.extend(Completion(piece, [-float(i) for i in piece]))
    assert (sample.text, sample.finish_reason) == (text[: text.index(stop)], "stop")
    assert sample.completion.tokens == ids[:num_kept]
    assert sample.completion.log_probabilities == [-float(i) for i in ids[:num_kept]]


def test_tokens_keep_the_one_that_a_stop_text_begins_in():
    class Pairs(Bytes):
        def decode(self, ids):
            return "".join("abcdefgh"[2 * i : 2 * i + 2] for i in ids)

    sample = TextSample("", Chain(), 0, IncrementalDecoder(Pairs()), ["de"])
    sample.extend(Completion([0, 1, 2, 3], [-1.0] * 4))
    row = sample.completion
    assert (sample.text, row.tokens, len(row.log_probabilities)) == ("abc", [0, 1], 2)


def test_stop_texts_of_a_chain_end_a_text_as_those_of_the_command_do(skald, trained_run):
    arguments = ["generate", trained_run, "--prompt", "A", "--max-new-tokens", "60", "--seed", "5"]
    (free,) = skald.json(*arguments, "--sampler", "temperature=0.8")["samples"]
    stop = free["text"][30:33]
    (named,) = skald.json(*arguments, "--sampler", "temperature=0.8", "--stop", stop)["samples"]
    sampler = f"temperature=0.8,stop={json.dumps(stop, ensure_ascii=False)}"
    (stopped,) = skald.json(*arguments, "--sampler", sampler)["samples"]
    assert stopped["text"] == named["text"] == free["text"][: free["text"].index(stop)]
    assert stopped["tokens"] == named["tokens"] and stopped["finish_reason"] == "stop"
    assert stopped["sampler"] == sampler and stopped["chain"][1] == {"name": "stop", "texts": stop}


def test_a_word_is_banned_as_the_tokenizer_writes_it(skald, trained_run):
    command = ["generate", trained_run, "--prompt", "A", "--max-new-tokens", "60"]
    (free,) = skald.json(*command, "--sampler", "greedy")["samples"]
    word = free["text"][10:12]
    (sample,) = skald.json(*command, "--sampler", f"banned_words={json.dumps(word)},greedy")["samples"]
    assert word in free["text"] and word not in sample["text"] and len(sample["text"]) == 60
    status, out, err = skald(*command, "--sampler", 'banned_words=["yé"]')
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "banned_words: 'yé': character 'é' (U+00E9) at offset 1 is not among the tokenizer's 65" in err
    status, out, err = skald(*command, "--sampler", 'logit_bias={"the": 3}')
    assert (status, out) == (2, "") and "'the' is no token: the tokenizer writes it as 't' (" in err
    status, out, err = skald(*command, "--sampler", "stop_tokens=65")
    assert (status, out) == (2, "") and "stop_tokens holds the id 65; ids go from 0 to 64" in err


def test_a_chain_that_leaves_no_token_fails_behind_what_was_written(skald, trained_run, characters, tmp_path):
    """After four letters no token is left: each link but the last only makes the text known."""
    ids = [characters.index(c) for c in "ABCD"]
    forced = "".join(f"logit_bias=[[[{a}, {b}], 1000]]," for a, b in itertools.pairwise(ids))
    banned = f"banned_words={json.dumps([[ids[3], i] for i in range(len(characters))])}".replace(" ", "")
    command = ["generate", trained_run, "--sampler", f"{forced}{banned},greedy", "--max-new-tokens", "9", "--seed", "4"]
    status, out, err = skald(*command, "--prompt", "A")
    assert (status, out) == (1, "ABCD\n")
    said = err.splitlines()[-1]
    assert "skald: the prompt 'A' with seed 4: banned_words=[[" in said
    assert "left no token to draw behind 3 new ones; loosen it" in said
    status, out, _ = skald(*command, "--prompt", "A", "--json")
    (sample,) = json.loads(out)["samples"]
    assert (status, sample["text"], sample["finish_reason"]) == (1, "BCD", "emptied")
    assert sample["emptied_by"].startswith("banned_words=[[")
    (tmp_path / "prompts.jsonl").write_text('"A"\n"D"\n"C"\n')
    status, out, err = skald(*command, "--prompts", tmp_path / "prompts.jsonl")
    samples = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and [(s["text"], s["finish_reason"]) for s in samples] == [
        ("BCD", "emptied"), ("", "emptied"), ("D", "emptied"),
    ]  # fmt: skip
    assert "left no token to draw behind 1 new ones" in samples[2]["error"]
    assert err.splitlines()[-1].startswith("skald: 3 of 3 prompts could not be served")


def test_a_loop_ends_a_text_and_its_beginning_is_said(skald, trained_run, characters):
    letter = characters.index("o")
    sampler = f'logit_bias={{"{letter}": 1000}},max_repeats(repeats=5,min_tokens=9),greedy'
    command = ["generate", trained_run, "--prompt", "A", "--max-new-tokens", "40", "--sampler", sampler]
    (sample,) = skald.json(*command)["samples"]
    assert (sample["text"], sample["finish_reason"], sample["repetition_start"]) == ("o" * 9, "repetition", 0)
    status, out, err = skald(*command)
    assert (status, out) == (0, "A" + "o" * 9 + "\n") and "a loop began at new token 0" in err


def test_prompts_from_a_file_are_answered_line_by_line_as_alone(skald, trained_run, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "ROMEO:"}\n\n"JULIET:"\n')
    arguments = ["generate", trained_run, "--max-new-tokens", "20", "--seed", "1"]
    status, out, err = skald(*arguments, "--prompts", file)
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["ROMEO:", "JULIET:"]
    alone = skald.json(*arguments, "--prompt", "JULIET:")["samples"]
    assert alone == [{name: value for name, value in lines[1].items() if name != "request"}]
    assert skald.json(*arguments, "--prompts", file) == {"step": 40, "samples": lines}


def test_prompts_may_hold_every_character_of_json(tmp_path):
    file = tmp_path / "prompts.jsonl"
    prompts = ["a\u2028b", "c\u0085d\u2029", "e\nf"]
    file.write_text("\n".join(json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts), encoding="utf-8")
    assert [request.prompt for request in read_requests(file, TextRequest(""))] == prompts


@pytest.mark.parametrize("line", ['{"prompt": 5}', "5", "null", '["a"]', "{}", "ROMEO:"])
def test_a_prompt_that_is_no_text_is_refused_with_its_line(tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'"a"\n\n{line}\n')
    with pytest.raises(DataError) as error:
        read_requests(file, TextRequest(""))
    assert all(part in str(error.value) for part in (f"{file}:3: ", '{"prompt": "…"}', f"not {line}"))


def test_a_file_without_prompts_is_refused(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n \n")
    with pytest.raises(DataError, match="no prompts in it"):
        read_requests(file, TextRequest(""))


def test_greedy_follows_the_models_own_logits(skald, trained_run):
    """Compared with the logits of the whole text without a cache, token by token, through the Python surface."""
    (sample,) = skald.json("generate", trained_run, "--prompt", "The", "--max-new-tokens", "20", "--sampler", "greedy")[
        "samples"
    ]
    from launch.api import load

    run = load(str(trained_run))
    ids = run.tokenizer.encode("The")
    for token in sample["tokens"]:
        logits_V = run.logits([ids])[0, -1]
        assert logits_V[token] >= logits_V.max() - 1e-5
        ids.append(token)


class BytesWithStart(Bytes):
    """Bytes, with tokens that begin and end a text."""

    def __init__(self, start_id: int | None, start_prompts: bool):
        self.start_id, self.start_prompts = start_id, start_prompts


@pytest.mark.parametrize(
    "start_id, start_prompts, prompt, expected",
    [
        (256, False, "a", [97]),  # GPT-2
        (256, False, "", [256]),
        (256, True, "a", [256, 97]),  # Llama
        (256, True, "", [256]),
        (97, True, "abc", [97, 98, 99]),  # it is there already
        (None, False, "a", [97]),
    ],
)
def test_a_prompt_begins_with_the_start_token_where_the_tokenizers_prompts_do(
    start_id, start_prompts, prompt, expected
):
    assert encode_prompt(prompt, BytesWithStart(start_id, start_prompts), 8) == expected


def test_an_empty_prompt_needs_a_start_token():
    with pytest.raises(PromptError, match="the prompt is empty, and the tokenizer has no token that begins a text"):
        encode_prompt("", BytesWithStart(None, False), 8)
