"""Where a tokenizer.json's texts may be cut: files of every usual design, the ids of the parts against the whole's."""

import functools
import json

import pytest
import tokenizers
from cut_texts import ODD, TEXTS, assert_cut_keeps_ids, assert_same_ids, short_segments
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from data.config import Source
from data.errors import DataError
from data.sources import source as sources
from data.tokenizers.cut_points import Border
from data.tokenizers.huggingface_json import HuggingFace
from data.tokenizers.segments import segments
from data.tokenizers.special_tokens import SpecialTokens

TEXT = next(document.text for document in sources.read_documents(Source("embedded:shakespeare")))[:30_000] + ODD[:8_000]

# The patterns that these models' files hold
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WHITE_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{WHITE_SPACE}"
LLAMA_3 = QWEN_2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{WHITE_SPACE}"
)
DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + WHITE_SPACE
)
BYTES = sorted(pre.ByteLevel.alphabet())
SPACES = [AddedToken(" " * n, normalized=True) for n in range(2, 5)]


def split(pattern: str):
    return pre.Split(Regex(pattern), "isolated")


def byte_level(*before, use_regex=False, add_prefix_space=False):
    return pre.Sequence([*before, pre.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)])


def train(pre_tokenizer, normalizer=None, kind="bpe", added=()) -> tokenizers.Tokenizer:
    """A tokenizer of this design, trained on TEXT."""
    model, trainer = {
        "bpe": (models.BPE(), functools.partial(trainers.BpeTrainer, initial_alphabet=BYTES)),
        "words": (models.WordPiece(unk_token="[UNK]"), functools.partial(trainers.WordPieceTrainer)),
        "unigram": (models.Unigram(), functools.partial(trainers.UnigramTrainer, unk_token="<unk>")),
    }[kind]
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    special = {"words": ["[UNK]"], "unigram": ["<unk>"]}.get(kind, [])
    made.train_from_iterator([TEXT], trainer(vocab_size=1200, special_tokens=special, show_progress=False))
    made.add_special_tokens(["<|end|>"])
    made.add_tokens(list(added))
    return made


def with_parts(made: tokenizers.Tokenizer, **parts) -> tokenizers.Tokenizer:
    """The same tokenizer with other parts in its file; `model` is added to."""
    content = json.loads(made.to_str())
    content |= {key: json.loads(part.__getstate__()) for key, part in parts.items() if key != "model"}
    content["model"] |= parts.get("model", {})
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def with_byte_fallback(made: tokenizers.Tokenizer, **parts) -> tokenizers.Tokenizer:
    """A BPE that writes what it does not know in bytes, given a whole text: no pre-tokenizer unless in `parts`."""
    content = json.loads(made.to_str())
    vocabulary = content["model"]["vocab"]
    highest = max(vocabulary.values()) + 100
    vocabulary |= {f"<0x{byte:02X}>": highest + byte for byte in range(256)}
    content["pre_tokenizer"] = None
    content["model"] |= {"byte_fallback": True, "fuse_unk": True}
    return with_parts(tokenizers.Tokenizer.from_str(json.dumps(content)), **parts)


def metaspace(scheme="always", split=True):
    return pre.Metaspace(prepend_scheme=scheme, split=split)


REPLACE = normalizers.Replace(" ", "▁")
LLAMA_2 = normalizers.Sequence([normalizers.Prepend("▁"), REPLACE])
BOTH, SPACE = frozenset(Border), frozenset({Border.SPACE})

DESIGNS = {
    "gpt2": (lambda: train(pre.ByteLevel(add_prefix_space=False)), BOTH),
    "gpt_neox": (lambda: train(pre.ByteLevel(add_prefix_space=False), normalizers.NFC(), added=SPACES), BOTH),
    "prefix_space": (lambda: train(pre.ByteLevel(add_prefix_space=True)), SPACE),
    "roberta": (lambda: train(pre.ByteLevel(), added=[AddedToken("[M]", lstrip=True)]), SPACE),
    "llama_3": (lambda: train(byte_level(split(LLAMA_3))), BOTH),
    "qwen_2": (lambda: train(byte_level(split(QWEN_2)), normalizers.NFC()), BOTH),
    "cl100k": (lambda: train(byte_level(pre.Split(Regex(CL100K), "removed", invert=True))), BOTH),
    "o200k": (lambda: train(byte_level(split(O200K))), BOTH),
    "deepseek_3": (
        lambda: train(byte_level(split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK_3))), BOTH,
    ),
    "starcoder": (lambda: train(byte_level(pre.Digits(True), use_regex=True)), BOTH),
    "falcon": (
        lambda: train(pre.Sequence([pre.Punctuation("contiguous"), pre.ByteLevel(add_prefix_space=False), pre.Digits(),
                                    split("[0-9][0-9][0-9]")])), BOTH,
    ),
    "lower_case": (lambda: train(byte_level(split(LLAMA_3)), normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()])), BOTH),
    "decomposed": (lambda: train(byte_level(split(LLAMA_3)), normalizers.NFKD()), BOTH),
    "every_word_with_a_prefix": (lambda: train(byte_level(split(LLAMA_3), add_prefix_space=True)), SPACE),
    "llama_2": (lambda: with_byte_fallback(train(metaspace()), normalizer=LLAMA_2), SPACE),
    "llama_2_without_normalizer": (
        lambda: with_byte_fallback(train(metaspace()), pre_tokenizer=metaspace("first", split=False)), SPACE,
    ),
    "gemma": (
        lambda: with_byte_fallback(
            train(metaspace("never")), normalizer=REPLACE, pre_tokenizer=pre.Split(" ", "merged_with_previous")), SPACE,
    ),
    "metaspace": (lambda: train(metaspace("first")), SPACE),
    "t5": (lambda: train(pre.Sequence([pre.WhitespaceSplit(), metaspace()]), kind="unigram"), SPACE),
    "unigram": (lambda: train(metaspace(), kind="unigram"), SPACE),
    "unigram_of_a_whole_text": (
        lambda: with_parts(train(metaspace(), kind="unigram"), pre_tokenizer=metaspace(split=False)), SPACE,
    ),
    "bert": (lambda: train(pre.BertPreTokenizer(), normalizers.BertNormalizer(), kind="words"), BOTH),
    "words": (lambda: train(pre.Whitespace(), normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents()]), kind="words"), BOTH),
}  # fmt: skip


@functools.cache
def build(design: str) -> HuggingFace:
    return HuggingFace(DESIGNS[design][0]().to_str(), SpecialTokens(None, None, False))


def unigram_score(tokenizer: HuggingFace):
    vocabulary = json.loads(tokenizer.content)["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return None
    return lambda id_: vocabulary[id_][1] if id_ < len(vocabulary) else 0.0


@pytest.mark.parametrize("design", DESIGNS)
@settings(max_examples=25, deadline=None)
@given(text=TEXTS, behind=TEXTS, continued=st.booleans())
@example("a b  \nb", "a", False)
@example("a b\n\nb", "a", False)
@example("a b\n b", "a", False)
@example("a b \u0301 b", "a", False)
def test_a_text_in_two_parts_has_the_ids_of_the_whole(design, text, behind, continued):
    tokenizer = build(design)
    assert tokenizer.borders == DESIGNS[design][1]
    continued = continued and not (tokenizer.prepends and not text.startswith(" "))  # it goes on at a cut
    try:
        assert_cut_keeps_ids(tokenizer, text, behind, continued, unigram_score(tokenizer))
    except DataError:  # a character that it does not know
        assert design in ("bert", "words", "t5", "unigram", "unigram_of_a_whole_text", "metaspace")
    if tokenizer.lossless:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("design", DESIGNS)
def test_a_text_in_many_segments_has_the_ids_of_the_whole(design):
    tokenizer = build(design)
    text = TEXT[:30_000]
    with short_segments():
        parts = list(segments(tokenizer, [text], "text"))
    assert len(parts) > 500 and "".join(part for part, _ in parts) == text
    ids = [i for part in parts for i in tokenizer.encode_array(*part).tolist()]
    assert_same_ids(ids, tokenizer.encode(text), unigram_score(tokenizer))


NO_BORDER = {
    "unknown pattern": lambda: train(byte_level(split(LLAMA_3 + r"|\w \w"))),
    "pattern that leaves out white space": lambda: train(byte_level(split(r"[^\r\n\p{L}\p{N}]?\p{L}+"))),
    "words that end at their space": lambda: train(pre.Split(" ", "merged_with_previous")),
    "strip": lambda: train(byte_level(use_regex=True), normalizers.Strip()),
    "accents": lambda: train(byte_level(use_regex=True), normalizers.BertNormalizer()),
    "added words": lambda: train(byte_level(use_regex=True), added=["ab"]),
    "added phrase": lambda: train(byte_level(use_regex=True), added=["<a b>"]),
    "added space": lambda: train(byte_level(use_regex=True), added=[" "]),
    "first word": lambda: train(pre.Sequence([pre.WhitespaceSplit(), metaspace("first")])),
    "phrases in the vocabulary": lambda: with_parts(train(split(r"[^.]+\.?")), pre_tokenizer=metaspace(split=False)),
    "white space that is no more": lambda: with_parts(train(pre.WhitespaceSplit()), normalizer=REPLACE),
    "pattern behind bytes": lambda: train(pre.Sequence([pre.ByteLevel(use_regex=False), split(LLAMA_3)])),
    "whole texts ahead of merges": lambda: with_parts(
        train(metaspace()), pre_tokenizer=metaspace(split=False), model={"ignore_merges": True}
    ),
}


@pytest.mark.parametrize("design", NO_BORDER)
def test_what_is_not_proven_is_not_cut(design):
    tokenizer = HuggingFace(NO_BORDER[design]().to_str(), SpecialTokens(None, None, False))
    assert not tokenizer.has_cut_points and tokenizer.last_cut("several words\nand lines") == 0


def test_a_file_is_lossless_where_it_keeps_all_bytes_and_its_added_tokens_are_read_as_they_are_written():
    lossless = {design for design in DESIGNS if build(design).lossless}
    assert lossless == {"gpt2", "llama_3", "o200k", "deepseek_3", "starcoder", "falcon"}
    for token, text in (("<é>", "a <é> b"), (AddedToken("[M]", lstrip=True), "a  [M]"), (AddedToken("[M]"), "a  [M]")):
        made = train(pre.ByteLevel(add_prefix_space=False), added=[token])
        tokenizer = HuggingFace(made.to_str(), SpecialTokens(None, None, False))
        assert tokenizer.lossless == (tokenizer.decode(tokenizer.encode(text)) == text)
