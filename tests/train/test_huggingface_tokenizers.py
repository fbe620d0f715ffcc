"""Tokenizers of Hugging Face folders: prompts get the ids that transformers' AutoTokenizer gives them."""

import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from data.tokenizers.tokenizer import build_tokenizer, tokenizer_from_json
from launch.inference.text import encode_prompt
from model.hf.config_reader import HuggingFaceError
from train.huggingface.tokenizers import check_vocabulary, find_tokenizer, verbatim_files

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

pytestmark = pytest.mark.timeout(120)
LINES = ["The quick brown fox jumps over the lazy dog.", "Some numbers, 123 and 45; no more.", "naïve café"] * 20
PROMPTS = ["The fox", "the dog jumps over 12 foxes", "naïve", "a\nb", "no more. Some"]
LLAMA = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": [2]}


def write(folder: Path, config: dict, settings: dict | None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def build(folder: Path):
    """The imported tokenizer, as a checkpoint gives it back."""
    config = json.loads((folder / "config.json").read_text())
    return tokenizer_from_json(build_tokenizer(find_tokenizer(folder, config, 60_000), ()).to_json())


def assert_same_prompts(folder: Path):
    ours, theirs = build(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        assert encode_prompt(prompt, ours, 1000) == theirs(prompt).input_ids, prompt
    return ours


def save_llama_style(folder: Path, template: bool = True) -> None:
    """A tokenizer.json as Llama 2's: byte-pair merges over characters, with bytes for what it does not know."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    parts = tokenizers.normalizers
    tokenizer.normalizer = parts.Sequence([parts.Prepend("▁"), parts.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if template:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        None,
        {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>", "add_bos_token": True},
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "add_eos_token": False},
    ],
    ids=["no settings", "start", "no start"],
)
def test_a_tokenizer_json_alone_says_whether_prompts_begin_with_the_start_token(tmp_path, template, settings):
    save_llama_style(tmp_path, template)
    tokenizer = assert_same_prompts(write(tmp_path, LLAMA, settings))
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.start_prompts) == (1, 2, template)


def test_the_end_token_is_the_one_that_the_settings_name(tmp_path):
    save_llama_style(tmp_path)
    assert build(write(tmp_path, LLAMA, {"eos_token": "<0x0A>"})).end_id == 3 + 10
    assert build(write(tmp_path, LLAMA | {"eos_token_id": [100_000, 3]}, {})).end_id == 3, "the first that is there"


@pytest.mark.parametrize("settings", [None, {"add_bos_token": True}, {"add_bos_token": False}])
def test_a_sentencepiece_model_gets_the_start_token_where_the_settings_say_so(tmp_path, settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, model_type="bpe", vocab_size=340, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = assert_same_prompts(write(tmp_path, LLAMA, settings))
    assert (tokenizer.start_id, tokenizer.end_id) == (1, 2)
    assert tokenizer.start_prompts == bool(settings and settings["add_bos_token"])


@pytest.mark.parametrize("settings", [None, {"add_bos_token": True}])
def test_gpt2s_own_files_give_its_ids(tmp_path, settings):
    own = next((p / "shared" / "data" / "gpt2_bpe" for p in Path(__file__).parents if (p / "shared").is_dir()), None)
    if own is None or not own.is_dir():
        pytest.skip("no folder shared/data above the checkout, with GPT-2's files")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(own / name, tmp_path / name)
    tokenizer = assert_same_prompts(write(tmp_path, {"model_type": "gpt2"}, settings))
    assert tokenizer.end_id == 50256 and verbatim_files(tmp_path, "gpt2").keys() >= {"vocab.json", "merges.txt"}


def test_a_folder_without_a_tokenizer_takes_ids(tmp_path):
    tokenizer = build(write(tmp_path, {"bos_token_id": 70_000, "eos_token_id": [70_000, 7]}, None))
    assert encode_prompt("5 7  9", tokenizer, 10) == [5, 7, 9] and tokenizer.decode([5, 7]) == "5 7"
    assert (tokenizer.end_id, tokenizer.vocab_size) == (7, 60_000)


def test_a_tokenizer_larger_than_the_model_is_refused():
    check_vocabulary(Path("folder"), 100, 128)
    with pytest.raises(HuggingFaceError, match="folder: the tokenizer has 129 ids and the model 128"):
        check_vocabulary(Path("folder"), 129, 128)
