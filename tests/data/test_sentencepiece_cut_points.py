"""Where a SentencePiece model's texts may be cut: models of every kind, the ids of the parts against the whole's."""

import functools
import io

import pytest
import sentencepiece
from cut_texts import ODD, TEXTS, assert_cut_keeps_ids, assert_same_ids, short_segments
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from data.config import Source
from data.sources import source as sources
from data.tokenizers.cut_points import Border
from data.tokenizers.segments import segments
from data.tokenizers.sentencepiece_model import SentencePiece
from data.tokenizers.special_tokens import SpecialTokens

TEXT = next(document.text for document in sources.read_documents(Source("embedded:shakespeare")))[:30_000]
BOTH, SPACE, NONE = frozenset(Border), frozenset({Border.SPACE}), frozenset()
EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}

DESIGNS = {
    "usual unigram": ({}, SPACE),
    "usual bpe": ({"model_type": "bpe"}, SPACE),
    "characters": ({"model_type": "char", "hard_vocab_limit": False}, SPACE),
    "llama_2": ({"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}, SPACE),
    "folded case": ({"normalization_rule_name": "nmt_nfkc_cf"}, SPACE),
    "exact bpe": ({"model_type": "bpe", "user_defined_symbols": ["\n"], **EXACT}, BOTH),
    "exact unigram": ({"user_defined_symbols": ["\n", "\n\n", "[M]"], **EXACT}, BOTH),
    "first space is lost": ({"add_dummy_prefix": False}, NONE),
    "pieces over several words": ({"model_type": "bpe", "split_by_whitespace": False}, NONE),
    "space behind words": ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, NONE),
    "a symbol of two words": ({"user_defined_symbols": ["a b"]}, NONE),
}


@functools.cache
def build(design: str) -> SentencePiece:
    model = io.BytesIO()
    options = {"vocab_size": 900, "byte_fallback": True, "minloglevel": 2} | DESIGNS[design][0]
    sentences = [line for line in (TEXT + ODD).split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=model, **options)
    return SentencePiece(model.getvalue(), SpecialTokens(None, None, False))


def unigram_score(tokenizer: SentencePiece):
    is_unigram = ModelProto.FromString(tokenizer.model).trainer_spec.model_type == TrainerSpec.UNIGRAM
    return tokenizer.processor.get_score if is_unigram else None


@pytest.mark.parametrize("design", DESIGNS)
@settings(max_examples=50, deadline=None)
@given(text=TEXTS, behind=TEXTS, continued=st.booleans())
def test_a_text_in_two_parts_has_the_ids_of_the_whole(design, text, behind, continued):
    tokenizer = build(design)
    assert tokenizer.borders == DESIGNS[design][1]
    continued = continued and not (tokenizer.puts_space_in_front and not text.startswith(" "))  # it goes on at a cut
    assert_cut_keeps_ids(tokenizer, text, behind, continued, unigram_score(tokenizer))


@pytest.mark.parametrize("design", [design for design, (_, borders) in DESIGNS.items() if borders])
def test_a_text_in_many_segments_has_the_ids_of_the_whole(design):
    tokenizer = build(design)
    with short_segments():
        parts = list(segments(tokenizer, [TEXT], "text"))
    assert len(parts) > 500 and "".join(part for part, _ in parts) == TEXT
    ids = [i for part in parts for i in tokenizer.encode_array(*part).tolist()]
    assert_same_ids(ids, tokenizer.encode(TEXT), unigram_score(tokenizer))


def test_a_unigram_model_divides_equal_letters_as_rounding_has_it():
    """Why ids under such a model are those of the segments: with more text in front "lll" is divided another way."""
    tokenizer = build("usual unigram")
    endings = {tuple(tokenizer.processor.encode("the " * n + "xlll", out_type=str)[-2:]) for n in range(300)}
    assert endings == {("l", "ll"), ("ll", "l")}
