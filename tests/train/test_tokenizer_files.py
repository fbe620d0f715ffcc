"""Tokenizers written for transformers: AutoTokenizer gives the ids, and the texts, that ours give."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Source
from data.config import Tokenizer as Config
from data.sources import source as sources
from data.tokenizers import gpt2_bpe, token_ids
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.huggingface_json import HuggingFace
from data.tokenizers.sentencepiece_model import SentencePiece
from data.tokenizers.special_tokens import SpecialTokens
from train.huggingface.tokenizer_files import tokenizer_files

transformers = pytest.importorskip("transformers", reason="compares with transformers")

SHAKESPEARE = "  First Citizen:\n\nBefore we proceed, & speak -- $3; 'Zounds! I'll  go\n"
ANY_TEXT = f"{SHAKESPEARE}\t\x00é e\u0301 ß Ж 东の \u2581 👩🏽‍🚀 \r\n\u3000½   "

EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
DESIGNS = {  # of SentencePiece models
    "usual unigram": {},
    "usual bpe": {"model_type": "bpe"},
    "Llama 2": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "exact bpe": {"model_type": "bpe", "user_defined_symbols": ["\n\n"], **EXACT},
    "exact unigram": {"user_defined_symbols": ["\n\n"], **EXACT},
}


def sentencepiece_model(design: str) -> bytes:
    model = io.BytesIO()
    options = {"vocab_size": 600, "byte_fallback": True, "minloglevel": 2} | DESIGNS[design]
    text = next(document.text for document in sources.read_documents(Source("embedded:shakespeare")))[:30_000]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text.split("\n")), model_writer=model, **options)
    return model.getvalue()


def from_files(files: dict[str, bytes], folder):
    """The tokenizer that transformers makes of the files."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def assert_same(ours, theirs, text: str) -> None:
    start = [ours.start_id] if ours.start_prompts else []
    assert theirs(text).input_ids == start + ours.encode(text)
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def words(start: int | None, end: int | None, start_prompts: bool, post_processor=None) -> HuggingFace:
    """A tokenizer.json of words, in which <s> and </s> are special and `end` is a word like any other."""
    vocabulary = {token: id_ for id_, token in enumerate(["<s>", "</s>", "<unk>", "to", "be", "or", "not", "end"])}
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(["<s>", "</s>"])
    if post_processor:
        built.post_processor = post_processor
    return HuggingFace(built.to_str(), SpecialTokens(start, end, start_prompts))


AROUND = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])


@pytest.mark.parametrize("ours, text", [(Characters.from_texts([SHAKESPEARE]), SHAKESPEARE), (Bytes(), ANY_TEXT)])
def test_characters_and_bytes_have_the_same_ids_and_no_token_of_their_own(ours, text, tmp_path):
    theirs = from_files(tokenizer_files(ours), tmp_path)
    assert_same(ours, theirs, text)
    assert theirs.bos_token_id is None and theirs.eos_token_id is None and len(theirs) == ours.vocab_size
    assert theirs.decode([*range(ours.vocab_size)]) == ours.decode([*range(ours.vocab_size)])


@pytest.mark.parametrize("start_prompts", [False, True])
def test_gpt2_files_are_those_it_was_read_from_and_prompts_begin_as_ours(start_prompts, corpora, tmp_path):
    folder = corpora / "gpt2_bpe"
    ours = gpt2_bpe.load(Config("gpt2", str(folder), start_prompts=start_prompts))
    files = tokenizer_files(ours)
    assert json.loads(files["vocab.json"]) == json.loads((folder / "vocab.json").read_text())
    read = tmp_path / "read"
    read.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (read / name).write_bytes(files[name])
    assert gpt2_bpe.load(Config("gpt2", str(read))).ranks == ours.ranks
    theirs = from_files(files, tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (50256, 50256)

    @given(st.text(max_size=40))
    @settings(deadline=None, max_examples=30)
    def check(text):
        if gpt2_bpe.END_OF_TEXT not in text:  # written out, transformers takes it as the token
            assert_same(ours, theirs, text)

    check()
    assert_same(ours, theirs, ANY_TEXT)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("start_prompts", [False, True])
def test_a_sentencepiece_model_has_the_same_ids(design, start_prompts, tmp_path):
    model = sentencepiece_model(design)
    ours = SentencePiece(model, SpecialTokens(1, 2, start_prompts))
    files = tokenizer_files(ours)
    assert files["tokenizer.model"] == model
    theirs = from_files(files, tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)
    for text in ("First Citizen: speak, speak.", "You are all resolved rather to die than to famish?", "a"):
        assert_same(ours, theirs, text)


@pytest.mark.parametrize("post_processor", [None, AROUND])
@pytest.mark.parametrize("start_prompts", [False, True])
def test_what_a_tokenizer_json_puts_around_texts_is_what_our_prompts_have(post_processor, start_prompts, tmp_path):
    ours = words(0, 1, start_prompts, post_processor)
    theirs = from_files(tokenizer_files(ours), tmp_path)
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert_same(ours, theirs, "to be or not to be")


def test_a_word_that_ends_texts_stays_a_word(tmp_path):
    ours = words(0, 7, False)
    theirs = from_files(tokenizer_files(ours), tmp_path)
    assert theirs.eos_token is None
    assert theirs("to be</s>end").input_ids == ours.encode("to be</s>end")
    assert theirs("not end toend").input_ids == [*ours.encode("not end"), 2]


def test_imported_files_are_given_back_as_they_were():
    imported = {"tokenizer_config.json": '{"a": "é"}', "chat_template.jinja": "x"}
    found = tokenizer_files(words(0, 1, False), imported)
    assert {name: found.pop(name).decode() for name in imported} == imported and found.keys() == {"tokenizer.json"}


def test_token_ids_have_no_files():
    assert tokenizer_files(token_ids.TokenIds(9, SpecialTokens(None, None, False))) == {}
