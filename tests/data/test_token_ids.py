"""Data that are token ids already: ids as decimal text and back, and those that are outside of the vocabulary."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import Tokenizer as Config
from data.errors import DataError, FieldError
from data.tokenizers.streaming import IncrementalDecoder
from data.tokenizers.tokenizer import build_tokenizer, check_ids, tokenizer_fingerprint, tokenizer_from_json

GPT2 = Config("ids", vocab_size=50257, end="50256")


def build(config: Config = GPT2, report=lambda _: None):
    return build_tokenizer(config, [], report)


@given(st.lists(st.integers(0, 50256)))
def test_ids_come_back_from_their_decimal_text(ids):
    tokenizer = build()
    assert tokenizer.encode(tokenizer.decode(ids)) == ids == tokenizer.encode_array(tokenizer.decode(ids)).tolist()
    growing, shown = IncrementalDecoder(tokenizer), ""
    for id_ in ids:
        shown += growing.push([id_])
    assert shown + growing.flush() == tokenizer.decode(ids)


@given(st.text(alphabet="0123 \n\t"), st.text(alphabet="0123 \n\t"))
def test_a_text_of_ids_is_cut_between_its_numbers(text, behind):
    tokenizer = build(Config("ids", vocab_size=1 << 30))
    cut = tokenizer.last_cut(text)
    try:
        whole = tokenizer.encode(text + behind)
    except DataError:
        return
    assert whole == tokenizer.encode(text[:cut]) + tokenizer.encode_array(text[cut:] + behind, True).tolist()
    assert cut or len(text.rstrip().split()) < 2


def test_the_tokenizer_is_built_again_with_its_special_tokens():
    tokenizer = build(Config("ids", vocab_size=10, start="1", end="2"))
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    for made in (tokenizer, again):
        assert (made.vocab_size, made.start_id, made.end_id, made.start_prompts) == (10, 1, 2, True)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(build())
    assert (build().start_id, build().start_prompts) == (50256, False)
    lines: list[str] = []
    assert build(Config("ids", vocab_size=10), lines.append).end_id is None
    assert len(lines) == 1 and "will not end by itself" in lines[0]


@pytest.mark.parametrize(
    "text, word, offset",
    [
        ("12 the 7", "'the'", 3),
        ("12 50257", "'50257'", 3),
        ("-1", "'-1'", 0),
        ("1.5", "'1.5'", 0),
        ("1 ２", "'２'", 2),
        ("9" * 5000, "'999", 0),
        ("77 7x7 7x", "'7x7'", 3),
        ("7x7 7x", "'7x7'", 0),
        ("50257 5025 50257", "'50257'", 0),
    ],
)
def test_text_that_is_no_id_is_named_with_its_place(text, word, offset):
    with pytest.raises(DataError) as error:
        build().encode(text)
    said = str(error.value)
    assert said.startswith(word) and f"at offset {offset} is no id from 0 to 50256" in said and len(said) < 200


@pytest.mark.parametrize(
    "ids, said",
    [
        (np.array([1, 50257, -1]), "rows.parquet#3: id 50257 at index 1 is none of the tokenizer's, 0 to 50256"),
        (np.array([-1], np.int8), "id -1 at index 0"),
        (np.array([2**63], np.uint64), "id 9223372036854775808 at index 0"),
        (np.array([1.0]), "float64 is no type of token ids"),
    ],
)
def test_ids_outside_the_vocabulary_are_named_with_their_place(ids, said):
    with pytest.raises(DataError) as error:
        check_ids(build(), ids, "rows.parquet#3")
    assert said in str(error.value)


def test_ids_of_the_vocabulary_are_int32_whatever_they_were():
    for dtype in (np.uint16, np.int64, np.uint32):
        ids = check_ids(build(), np.array([0, 50256], dtype), "rows")
        assert (ids.dtype, ids.tolist()) == (np.int32, [0, 50256])
    assert check_ids(build(), np.array([], np.int64), "rows").tolist() == []


@pytest.mark.parametrize(
    "config, said",
    [
        (Config("ids"), "data.tokenizer.vocab_size: 0; the kind ids needs"),
        (Config("ids", vocab_size=-3), "data.tokenizer.vocab_size: -3"),
        (Config("ids", vocab_size=1 << 31), "data.tokenizer.vocab_size: 2147483648"),
        (Config("bytes", vocab_size=256), "data.tokenizer.vocab_size is for the kind ids; a bytes tokenizer"),
        (Config("ids", vocab_size=10, end="10"), "data.tokenizer.end: '10' is no token of the ids from 0 to 9"),
        (Config("ids", vocab_size=10, start="<s>"), "data.tokenizer.start: '<s>' is no token of the ids from 0 to 9"),
    ],
)
def test_a_config_that_names_no_vocabulary_or_a_token_outside_it_is_refused(config, said):
    with pytest.raises(FieldError) as error:
        build(config)
    assert said in str(error.value)
