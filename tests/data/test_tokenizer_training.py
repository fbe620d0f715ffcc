"""Trained SentencePiece models: every text comes back, no line is lost to the trainer, the same text gives the same."""

import io
import os
import re
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError, FieldError
from data.sources.document import Document, Piece, text_document
from data.sources.source import read_documents
from data.tokenizers.sentencepiece_model import SentencePiece
from data.tokenizers.special_tokens import SpecialTokens
from data.tokenizers.streaming import IncrementalDecoder
from data.tokenizers.tokenizer import build_tokenizer, tokenizer_from_json
from data.tokenizers.training import SEPARATORS, Trainer, document_lines, draw_sample, train

EMBEDDED = Source("embedded:shakespeare")
KINDS = ["bpe", "unigram"]
# Letters, white space, what the library gives a meaning to (its space, its unknown character, its tokens), all Unicode.
TEXTS = st.text(
    st.one_of(
        st.sampled_from("aeint  \n\n\t\r\0.,'é東👩\u2581\u2585\ufeff\xa0"), st.characters(exclude_categories=["Cs"])
    )
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for document in read_documents(EMBEDDED) for line in document_lines(document)][:5000]


@pytest.fixture(scope="module")
def by_kind(lines, tmp_path_factory) -> dict:
    """A tokenizer of each kind, trained on some Shakespeare and built as a run builds it."""
    folder = tmp_path_factory.mktemp("trained")
    for kind in KINDS:
        (folder / f"{kind}.model").write_bytes(train(Trainer(kind, 1000), draw_sample(lines, 10**9)))
    return {kind: build_tokenizer(Config("sentencepiece", str(folder / f"{kind}.model")), [EMBEDDED]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example("\u2581\u2581 a\u2581")
@example("<s>a</s><unk><0x41>\u2585")
@example(" a\n\n\n  b \r\n\t\0")
def test_every_text_comes_back_in_the_librarys_tokens(by_kind, kind, text):
    tokenizer = by_kind[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    growing = IncrementalDecoder(tokenizer)
    assert "".join([*(growing.push([i]) for i in ids), growing.flush()]) == text
    assert not {tokenizer.processor.unk_id(), tokenizer.start_id, tokenizer.end_id} & set(ids)
    if "\u2581" not in text:
        assert ids == tokenizer.processor.encode(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=8), TEXTS, st.sampled_from(KINDS))
@example(["東京"], " a", "bpe")
@example(["東京"], " a", "unigram")
def test_a_tokenizer_of_any_text_keeps_any_other(texts, other, kind):
    """Also where what it was trained on has not a single space."""
    lines = list(document_lines(text_document("\n".join(texts), "here")))
    assume(lines)
    with pytest.raises(FieldError, match="too large") as error:
        train(Trainer(kind, 10_000), draw_sample(lines, 10**6))
    largest = int(re.findall(r"(\d+) is the most", str(error.value))[0])
    model = train(Trainer(kind, largest), draw_sample(lines, 10**6))
    tokenizer = SentencePiece(model, SpecialTokens(1, 2, True))
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in (*texts, other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_novel_comes_back(by_kind, kind):
    folder = next((path for above in Path(__file__).parents if (path := above / "shared" / "data").is_dir()), None)
    if not folder:
        pytest.skip("no folder shared/data above the checkout, with books")
    text = (folder / "books" / "valid" / "emma.txt").read_bytes().decode("utf-8")
    assert by_kind[kind].decode(by_kind[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_symbol_of_a_space_is_its_bytes_where_the_library_has_a_space(by_kind, kind):
    tokenizer = by_kind[kind]
    library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert library.decode(library.encode("a\u2581b")) == "a b", "what the library does"
    ids = tokenizer.encode("a\u2581b c")
    pieces = [library.id_to_piece(i) for i in ids[1:4]]
    assert (pieces, ids[4:]) == (["<0xE2>", "<0x96>", "<0x81>"], library.encode("b c"))
    assert tokenizer.first_token_bytes("\u2581b") == 0 and tokenizer.first_token_bytes("a\u2581b") == 1
    growing = IncrementalDecoder(tokenizer)
    assert [growing.push([i]) for i in ids[:5]] == ["a", "", "", "\u2581", "b"]
    assert tokenizer_from_json(tokenizer.to_json()).encode("a\u2581b c") == ids


def test_a_model_that_changes_spaces_encodes_as_the_library_does(lines, tmp_path):
    model = io.BytesIO()
    options = {"vocab_size": 500, "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options)
    (tmp_path / "changes.model").write_bytes(model.getvalue())
    tokenizer = build_tokenizer(Config("sentencepiece", str(tmp_path / "changes.model")), [EMBEDDED])
    assert tokenizer.encode("a\u2581b") == tokenizer.processor.encode("a\u2581b") == tokenizer.encode("a b")


def test_documents_begin_and_end_with_tokens_of_their_own(by_kind):
    for tokenizer in by_kind.values():
        assert (tokenizer.start_id, tokenizer.end_id, tokenizer.start_prompts) == (1, 2, True)
        assert tokenizer.vocab_size == 1000 and tokenizer.notes == ()
        assert len(tokenizer.encode("\n\n")) == 1, "the border of paragraphs is one token"


# --- what the trainer gets --------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.integers(1, 2500)), max_size=4), st.data())
def test_lines_are_all_of_a_text_but_its_separators_however_it_comes_in_parts(repeated, data):
    text = "".join(part * times for part, times in repeated)[:20_000]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pieces = [Piece(part, continues=i > 0) for i, part in enumerate(parts)]
    lines = list(document_lines(Document(pieces, "here")))
    assert lines == list(document_lines(text_document(text, "here")))
    assert "".join(lines) == SEPARATORS.sub("", text)
    assert all(line and not SEPARATORS.search(line) and len(line.encode("utf-8")) <= 4000 for line in lines)


def test_pieces_that_do_not_go_on_are_lines_of_their_own():
    pieces = [Piece("to be", counted=False), Piece("or not"), Piece(" to be", continues=True)]
    assert list(document_lines(Document(pieces, "here"))) == ["to be", "or not to be"]


def training_log(capfd, lines: list[str]) -> str:
    """What SentencePiece's trainer says while it trains."""
    encoded = (line.encode("utf-8") for line in lines)
    options = {"model_type": "bpe", "vocab_size": 285, "byte_fallback": True, "minloglevel": 0}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=encoded, model_writer=io.BytesIO(), **options)
    return capfd.readouterr().err


def test_the_trainer_leaves_no_line_out_and_learns_a_word_of_one_long_line(capfd):
    text = "the cat sat on the mat\n" * 50 + "a long line of plain words and then mumblecrust " * 500 + "\n"
    text += "the dog sat\u2585on the\u2581log\tand\0sat\r\n" * 50
    sample = draw_sample(document_lines(text_document(text, "here")), 10**9)
    ours, theirs = (training_log(capfd, lines) for lines in (sample.lines, text.split("\n")))
    assert f"Loaded all {len(sample.lines)} sentences" in ours and not re.search("Skipped|too long", ours)
    assert "Skipped 1 too long sentences" in theirs and "Reserved chars are found. Skipped" in theirs, "what it does"
    processor = sentencepiece.SentencePieceProcessor(model_proto=train(Trainer("bpe", 340), sample))
    assert processor.encode(" mumblecrust", out_type=str) == ["\u2581mumblecrust"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcé ", min_size=1, max_size=9), min_size=1, max_size=200), st.integers(40, 2000))
def test_a_sample_is_some_lines_in_order_within_its_limit(lines, limit):
    sizes = [len(line.encode()) for line in lines]
    sample = draw_sample(iter(lines), limit)
    assert (sample.lines_read, sample.bytes_read) == (len(lines), sum(sizes))
    assert sample.bytes == sum(len(line.encode()) for line in sample.lines) <= limit
    remaining = iter(lines)
    assert all(line in remaining for line in sample.lines), "in the order of the text"
    assert sum(sizes) > limit or sample.lines == lines
    assert draw_sample(iter(lines), limit) == sample


def test_a_sample_is_spread_evenly_and_nearly_fills_its_limit():
    sample = draw_sample((f"{i:09}" for i in range(200_000)), 180_000)
    assert 0.85 * 180_000 < sample.bytes <= 180_000
    tenths = [sum(int(line) // 20_000 == i for line in sample.lines) / len(sample.lines) for i in range(10)]
    assert all(0.085 < share < 0.115 for share in tenths), tenths


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_file_on_any_number_of_processors(lines, kind):
    sample, processors = draw_sample(lines, 60_000), os.sched_getaffinity(0)
    models = {train(Trainer(kind, 600), sample)}
    try:
        os.sched_setaffinity(0, {min(processors)})
        models.add(train(Trainer(kind, 600), sample))
    finally:
        os.sched_setaffinity(0, processors)
    assert len(models) == 1


# --- what can't be trained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size, said, beyond", [(50_000, "too large", 1), (10, "too small", -1)])
def test_a_vocabulary_that_does_not_fit_is_answered_with_the_nearest_that_does(lines, kind, vocab_size, said, beyond):
    sample = draw_sample(lines[:300], 10**9)
    with pytest.raises(FieldError, match=f"a vocabulary of {vocab_size} tokens is {said}") as error:
        train(Trainer(kind, vocab_size), sample)
    nearest = max(int(number) for number in re.findall(r"\d+", str(error.value)) if int(number) != vocab_size)
    assert train(Trainer(kind, nearest), sample)
    with pytest.raises(FieldError, match=said):
        train(Trainer(kind, nearest + beyond), sample)


def test_no_text_and_a_sample_without_a_line_are_refused():
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        draw_sample(document_lines(text_document("\n\r\n\t", "here")), 10**9)
    with pytest.raises(FieldError, match="a sample of 3 bytes holds no line; take 1,000,000 or more"):
        draw_sample(["to be", "or not"], 3)
