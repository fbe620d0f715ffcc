"""Documents of several pieces, under tokenizers that put a space in front of every text."""

import functools
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from cut_texts import short_segments

from data.config import Source
from data.documents import encode_contents
from data.store.store import open_store
from data.tokenizers.huggingface_json import HuggingFace
from data.tokenizers.sentencepiece_model import SentencePiece
from data.tokenizers.special_tokens import SpecialTokens
from data.tokenizers.tokenizer import Tokenizer

WORDS = "[I] what is it [/I] it is yes [I] no go on [/I] nothing goes"
KINDS = ["sentencepiece", "sentencepiece that keeps spaces", "Prepend", "always", "first"]


@functools.cache
def build(kind: str) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    """A tokenizer that puts a space in front of a text, and what its own library makes of a text."""
    if kind.startswith("sentencepiece"):
        model, options = io.BytesIO(), {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
        options |= {"remove_extra_whitespaces": kind == "sentencepiece"}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([WORDS] * 9), model_writer=model, **options)
        library = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        return SentencePiece(model.getvalue(), SpecialTokens(1, 2, True)), library.encode
    library = train_json(kind)
    ours = HuggingFace(library.to_str(), SpecialTokens(1, 2, True))
    return ours, lambda text: library.encode(text, add_special_tokens=False).ids


def train_json(kind: str) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    if kind == "Prepend":
        replace = tokenizers.normalizers.Replace(" ", "▁")
        library.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), replace])
    else:
        library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=kind)
    library.decoder = tokenizers.decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<|end|>"]
    size = len(special) + len(set(WORDS)) if kind == "Prepend" else 80  # no merges: they would go across words
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    library.train_from_iterator([WORDS] * 9, trainer)
    return library


def halves(tokenizer: Tokenizer, source: Source, folder: Path) -> list[list[int]]:
    """The ids of both halves of the only pair, without start and end token."""
    documents = open_store(source, tokenizer, folder / "cache").documents
    borders = [0, int(documents.halves[0]), len(documents.tokens)]
    return [documents.tokens[start + 1 : stop - 1].tolist() for start, stop in itertools.pairwise(borders)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["yes", "it is what it is " * 9 + "yes"], ids=["short", "long"])
@pytest.mark.parametrize("space", ["behind a border", "before a border", "nowhere"])
def test_no_space_is_put_in_front_of_a_piece(kind, answer, space, tmp_path):
    """What is stored is what the template writes. Where no token can go across a border, as in front of a space, the
    ids are those that the library gives the whole text, as it gives them to prompts."""
    tokenizer, encode = build(kind)
    behind, before = " " * (space == "behind a border"), " " * (space == "before a border")
    template = f"[I] {{{{ q }}}} [/I]{before}{{% generation %}}{behind}{{{{ a }}}}{before}{{% endgeneration %}}"
    template += template.replace("{{ q }}", "no go").replace("{{ a }}", "nothing").replace("[I]", f"{behind}[I]", 1)
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "what", "a": answer, "r": "no"}))
    source = Source(str(tmp_path / "a.jsonl"), "a", template=template, rejected="r")
    with short_segments():
        found = halves(tokenizer, source, tmp_path)
    for ids, response in zip(found, (answer, "no"), strict=True):
        text = f"[I] what [/I]{behind or before}{response}{behind or before}[I] no go [/I]{behind or before}nothing"
        assert tokenizer.decode(ids).rstrip() == text
        if behind or (before and kind == "sentencepiece"):
            assert ids == encode(text)
        apart = encode_contents(tokenizer, [text.removesuffix(f"{behind}nothing"), f"{behind}nothing{before}"])
        assert ids[-5:] == apart[-5:]


@pytest.mark.parametrize("kind", ["Prepend", "always", "first"])
@pytest.mark.parametrize("before", ["it<|end|>", "<|end|>", "it"])
@pytest.mark.parametrize("text", [" yes", "yes", "yes<|end|>it", "<|end|>it", "", " "])
def test_behind_and_in_front_of_an_added_token_is_what_the_library_puts_there(kind, before, text):
    tokenizer, encode = build(kind)
    assert encode_contents(tokenizer, [before, text]) == encode(before + text)
