"""Each tokenizer against the library it stands for, on a vocabulary trained here; text and back; text as it grows."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from data import documents
from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources import source as sources
from data.store.store import open_store
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.gpt2_bpe import byte_decoder
from data.tokenizers.streaming import IncrementalDecoder
from data.tokenizers.tokenizer import build_tokenizer, tokenizer_fingerprint, tokenizer_from_json

EMBEDDED = Source("embedded:shakespeare")
ODD = "Tōkyō, naïve café: 東京 👩🏽‍🚀 \n\n  don't  I'll 1999…\ttab\r\n<|endoftext|> x"
KINDS = ["characters", "bytes", "sentencepiece", "gpt2", "json"]


@pytest.fixture(scope="session")
def shakespeare() -> str:
    (text,) = (document.text for document in sources.read_documents(EMBEDDED))
    return text


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory, shakespeare) -> dict[str, str]:
    """The `path` of a config for each kind, trained on some Shakespeare and the odd text."""
    folder = tmp_path_factory.mktemp("vocabularies")
    sample = shakespeare[:100_000] + ODD
    (folder / "sample.txt").write_text(sample, encoding="utf-8")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([sample], vocab_size=600, show_progress=False)
    # GPT-2's files put <|endoftext|> last, after the merges
    bpe.save_model(str(folder))
    bpe.add_special_tokens(["<|endoftext|>"])
    bpe.save(str(folder / "tokenizer.json"))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "sample.txt"),
        model_prefix=str(folder / "pieces"),
        vocab_size=500,
        byte_fallback=True,
        minloglevel=2,
    )
    return {"gpt2": str(folder), "json": str(folder / "tokenizer.json"), "sentencepiece": str(folder / "pieces.model")}


@pytest.fixture(scope="session")
def by_kind(vocabularies, tmp_path_factory):
    """A tokenizer of each kind."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_bytes((ODD + "abcdefghijklmnopqrstuvwxyz ,.!?").encode())
    return {kind: build_tokenizer(Config(kind, vocabularies.get(kind, "")), [Source(str(text))]) for kind in KINDS}


def test_characters_are_nanogpts():
    """data/shakespeare_char: 65 characters, sorted, "hii there" as its prepare.py would encode it."""
    built = build_tokenizer(Config("characters"), [EMBEDDED])
    assert built.vocab_size == 65
    assert built.alphabet == "\n !$&',-.3:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
    assert built.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]


def test_bytes_are_utf8(by_kind):
    assert by_kind["bytes"].encode(ODD) == list(ODD.encode("utf-8"))


def test_sentencepiece_is_the_librarys(by_kind, vocabularies, shakespeare):
    processor = sentencepiece.SentencePieceProcessor(model_file=vocabularies["sentencepiece"])
    for text in (ODD, shakespeare[100_000:103_000]):
        assert by_kind["sentencepiece"].encode(text) == processor.encode(text)
    assert (by_kind["sentencepiece"].vocab_size, by_kind["sentencepiece"].end_id) == (500, processor.eos_id())


def reference(folder: str) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer as Hugging Face builds it from the two files."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("aeinst  \n\t'1.,!ü東👩"), st.characters(exclude_categories=["Cs"]))))
def test_gpt2_splits_and_merges_as_hugging_face_does(by_kind, vocabularies, text):
    theirs = reference(vocabularies["gpt2"])
    assert by_kind["gpt2"].encode(text) == theirs.encode(text).ids
    if "<|endoftext|>" not in text:
        assert by_kind["json"].encode(text) == theirs.encode(text).ids
    assert by_kind["gpt2"].decode(by_kind["gpt2"].encode(text)) == text


def test_the_end_of_text_written_out_is_text_to_gpt2_and_special_to_a_json_file_as_its_library_has_it(by_kind):
    for kind in ("gpt2", "json"):
        assert by_kind[kind].end_id == by_kind[kind].vocab_size - 1
    assert by_kind["gpt2"].end_id not in by_kind["gpt2"].encode(ODD)
    assert by_kind["json"].end_id in by_kind["json"].encode(ODD)


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_and_so_does_the_tokenizer(by_kind, kind):
    built = by_kind[kind]
    ids = built.encode(ODD)
    assert 0 <= min(ids) <= max(ids) < built.vocab_size
    normalized = ODD if kind != "sentencepiece" else built.processor.normalize(ODD).replace("▁", " ").strip()
    assert built.decode(ids) == normalized
    again = tokenizer_from_json(built.to_json())
    assert again.encode(ODD) == ids
    fields = ("vocab_size", "start_id", "end_id", "start_prompts")
    assert [getattr(again, name) for name in fields] == [getattr(built, name) for name in fields]
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(built)


def test_fingerprints_tell_tokenizers_apart(by_kind):
    prints = {tokenizer_fingerprint(built) for built in [*by_kind.values(), Characters("ab"), Characters("abc")]}
    assert len(prints) == len(by_kind) + 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[1], [2], [7, 1, 3]])
def test_growing_text_is_the_whole_text_and_never_half_a_character(by_kind, kind, sizes):
    ids, growing, pieces, place = by_kind[kind].encode(ODD), IncrementalDecoder(by_kind[kind]), [], 0
    while place < len(ids):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(growing.push(ids[place : place + size]))
        place += size
    pieces.append(growing.flush())
    assert "".join(pieces) == by_kind[kind].decode(ids)
    assert all("\ufffd" not in piece for piece in pieces)
    if sizes == [1] and kind != "bytes":
        assert sum(map(bool, pieces)) > len(ids) / 3, "text is shown as it grows"


def test_half_a_character_at_the_end_is_shown_at_last(by_kind):
    growing = IncrementalDecoder(by_kind["bytes"])
    assert growing.push(list("é".encode())[:1]) == ""
    assert growing.flush() == "\ufffd"


@pytest.mark.parametrize("prompt", ["ROMEO:", "a"])
def test_a_continuation_keeps_its_leading_space(by_kind, prompt):
    """SentencePiece drops a text's first space: what is written after a prompt must not lose its own."""
    growing = IncrementalDecoder(by_kind["sentencepiece"], by_kind["sentencepiece"].encode(prompt))
    space = next(i for i in range(500) if by_kind["sentencepiece"].processor.id_to_piece(i) == "▁the")
    assert growing.decode_after_prefix([space]) == " the"
    assert growing.push([space]) == " the"
    assert growing.push([space]) == " the"


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(DataError) as error:
        Characters("abc").encode("abca☃")
    assert all(part in str(error.value) for part in ("'☃'", "U+2603", "offset 4", "3: abc"))


@pytest.mark.parametrize(
    "kind, content, parts",
    [
        ("sentencepiece", None, ["no such file", ".model"]),
        ("sentencepiece", "not a model", ["not a SentencePiece model"]),
        ("json", None, ["no such file", "tokenizer.json"]),
        ("json", "{}", ["not a tokenizer.json"]),
        ("gpt2", None, ["vocab.json", "no such file", "merges.txt"]),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, kind, content, parts):
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError) as error:
        build_tokenizer(Config(kind, str(file)), [EMBEDDED])
    said = str(error.value)
    assert str(file) in said and "\n" not in said and all(part in said for part in parts), said


def gpt2_files(folder: Path, vocabulary: dict | str, merges: str = "#version: 0.2\n") -> Config:
    (folder / "vocab.json").write_text(vocabulary if isinstance(vocabulary, str) else json.dumps(vocabulary))
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return Config("gpt2", str(folder))


BYTES = {character: i for i, character in enumerate(byte_decoder())}


def test_ids_without_a_token_stay_so_where_gpt2_is_stored(tmp_path):
    """300 names nothing: without it on record, every later id would move down by one."""
    config = gpt2_files(tmp_path, {**BYTES, "th": 256, "extra": 400, "<|endoftext|>": 300}, "t h\n")
    built = build_tokenizer(config, [EMBEDDED])
    again = tokenizer_from_json(json.loads(json.dumps(built.to_json())))
    assert (again.ranks, again.end_id, again.vocab_size) == (built.ranks, 300, 401)
    assert again.encode("the extra") == built.encode("the extra") and again.decode([400, 256]) == "extrath"
    endless = build_tokenizer(gpt2_files(tmp_path, {**BYTES, "th": 256, "extra": 400}, "t h\n"), [EMBEDDED])
    assert endless.end_id == 401, "not an id that is taken"


@pytest.mark.parametrize(
    "vocabulary, merges, parts",
    [
        ("{", "", ["vocab.json", "not JSON"]),
        ("[1]", "", ["vocab.json", "not an object of ids"]),
        ({**BYTES, "th": "x"}, "", ["vocab.json", "not an object of ids"]),
        ({**BYTES, "th": 3}, "", ["vocab.json", "a number of its own"]),
        ({"a": 0}, "", ["vocab.json", "no token for byte"]),
        ({**BYTES, "東": 256}, "", ["vocab.json", "'東'", "tokenizer.json"]),
        (BYTES, "#version: 0.2\nt h e\n", ["merges.txt:2", "'t h e'", "not two tokens"]),
        (BYTES, "#version: 0.2\n\nthe\n", ["merges.txt:3", "'the'"]),
    ],
)
def test_broken_files_of_gpt2_are_named(tmp_path, vocabulary, merges, parts):
    with pytest.raises(DataError) as error:
        build_tokenizer(gpt2_files(tmp_path, vocabulary, merges), [EMBEDDED])
    said = str(error.value)
    assert str(tmp_path) in said and "\n" not in said and all(part in said for part in parts), said


def test_a_json_vocabulary_with_holes_is_as_large_as_its_largest_id(tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 70_000, "<eos>": 5}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    built = build_tokenizer(Config("json", str(tmp_path / "tokenizer.json"), end="<eos>"), [EMBEDDED])
    assert (built.vocab_size, built.end_id, built.encode("b")) == (70_001, 5, [70_000])


def test_merges_that_are_not_the_vocabularys_are_refused(tmp_path, vocabularies):
    for name in ("vocab.json", "merges.txt"):
        lines = (Path(vocabularies["gpt2"]) / name).read_text(encoding="utf-8").split("\n")
        if name == "merges.txt":
            lines[5], lines[6] = lines[6], lines[5]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"is not token \d+ of vocab.json"):
        build_tokenizer(Config("gpt2", str(tmp_path)), [EMBEDDED])


# How documents begin and end


def json_file(folder: Path, special: list[str], ordinary: list[str] = (), template: str = "", change=None) -> str:
    """A byte-level tokenizer.json made by its library, with these added tokens and this post-processor."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["the cat sat on the mat"] * 9,
        tokenizers.trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False),
    )
    made.add_special_tokens(special)
    made.add_tokens(list(ordinary))
    if template:
        pairs = [(token, made.token_to_id(token)) for token in special if token in template]
        made.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=pairs)
    if change:
        change(made)
    made.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.mark.parametrize(
    "special, ordinary, template, fields, start, end, prompts",
    [
        (["<|endoftext|>"], [], "", {}, "<|endoftext|>", "<|endoftext|>", False),  # GPT-2
        (["<pad>", "<eos>", "<bos>"], ["</s>"], "<bos> $A", {}, "<bos>", "<eos>", True),  # Gemma
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], [], "<|begin_of_text|> $A", {}, "<|begin_of_text|>",
         "<|end_of_text|>", True),  # Llama 3
        (["[CLS]", "[SEP]"], [], "[CLS] $A [SEP]", {}, "[CLS]", "[SEP]", True),  # BERT
        (["<s>", "</s>"], [], "", {}, "<s>", "</s>", True),
        (["<|endoftext|>", "<s>", "</s>"], [], "", {}, "<s>", "</s>", True),
        (["<|endoftext|>", "<s>"], ["</s>"], "<s> $A", {}, "<s>", "<|endoftext|>", True),  # Phi-3
        (["</s>"], [], "$A </s>", {}, "</s>", "</s>", False),  # T5
        (["<|endoftext|>"], [], "", {"start_prompts": True}, "<|endoftext|>", "<|endoftext|>", True),
        (["<s>", "</s>"], [], "", {"start_prompts": False}, "<s>", "</s>", False),
        (["<mask>"], ["<eos>"], "", {}, None, None, False),
        (["<mask>"], ["<eos>"], "", {"end": "<eos>"}, "<eos>", "<eos>", False),
        (["<|endoftext|>"], ["<go>"], "", {"start": "<go>"}, "<go>", "<|endoftext|>", True),
    ],
)  # fmt: skip
def test_documents_begin_and_end_with_what_the_file_marks_or_the_config_names(
    tmp_path, special, ordinary, template, fields, start, end, prompts
):
    path = json_file(tmp_path, special, ordinary, template)
    built = build_tokenizer(Config("json", path, **fields), [EMBEDDED])
    id_of = tokenizers.Tokenizer.from_file(path).token_to_id
    assert (built.start_id, built.end_id) == (start and id_of(start), end and id_of(end))
    assert built.start_prompts == prompts
    assert ["marks no token as the end of a text" in note for note in built.notes] == [True] * (end is None)


@pytest.mark.parametrize(
    "ids, start, end", [({}, 1, 2), ({"bos_id": -1}, 2, 2), ({"bos_id": -1, "eos_id": -1}, None, None)]
)
def test_a_sentencepiece_model_says_itself_what_begins_and_ends(tmp_path, ids, start, end):
    path = pieces(tmp_path, "the cat sat on the mat\n" * 50, vocab_size=13, **ids)
    built = build_tokenizer(Config("sentencepiece", path), [EMBEDDED])
    assert (built.start_id, built.end_id, built.start_prompts) == (start, end, start == 1)
    named = build_tokenizer(Config("sentencepiece", path, end="t"), [EMBEDDED])
    assert built.processor.id_to_piece(named.end_id) == "t"


@pytest.mark.parametrize("kind", ["json", "sentencepiece", "gpt2", "bytes", "characters"])
def test_a_token_that_is_none_can_not_be_named(vocabularies, kind):
    with pytest.raises(DataError, match=r"data.tokenizer.(end: '<nothing>' is no token of|start and .end name tokens)"):
        build_tokenizer(Config(kind, vocabularies.get(kind, ""), end="<nothing>"), [EMBEDDED])


def pieces(folder: Path, text: str, **options) -> str:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    given = {"input": str(folder / "text.txt"), "model_prefix": str(folder / "pieces"), "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**given, **options)
    return str(folder / "pieces.model")


# What a file asks for, and what a tokenizer does not know


CHANGES = {
    "truncation": lambda made: made.enable_truncation(4),
    "padding": lambda made: made.enable_padding(length=64, pad_id=0, pad_token="!"),
    "dropout": lambda made: setattr(made.model, "dropout", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_whoever_saved_a_file_had_set_changes_no_tokens(tmp_path, change):
    for name in ("plain", "changed"):
        (tmp_path / name).mkdir()
    text = "the cat sat on the mat, and the cat sat on the other mat"
    plain = json_file(tmp_path / "plain", ["<eos>"])
    changed = json_file(tmp_path / "changed", ["<eos>"], change=CHANGES[change])
    theirs = tokenizers.Tokenizer.from_file(changed)
    assert any(
        theirs.encode(text).ids != theirs.encode(text[:30]).ids + theirs.encode(text[30:]).ids for _ in range(20)
    )
    one, other = (build_tokenizer(Config("json", path), [EMBEDDED]) for path in (plain, changed))
    expected = tokenizers.Tokenizer.from_file(plain).encode(text).ids
    assert all(built.encode(text) == expected for built in (one, other) for _ in range(5))
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    assert one.notes == () and len(other.notes) == 1 and "not done here" in other.notes[0]


def test_an_unknown_character_of_a_sentencepiece_model_is_named(tmp_path):
    path = pieces(tmp_path, "the cat sat on the mat\n" * 50, vocab_size=13)
    built = build_tokenizer(Config("sentencepiece", path), [EMBEDDED])
    assert built.encode("the cat")
    with pytest.raises(DataError, match=r"character 'Ж' \(U\+0416\) at offset 4 is none that the tokenizer knows"):
        built.encode("the Жat")


def test_characters_that_a_json_file_drops_or_makes_unknown_are_named(tmp_path):
    """A byte-level vocabulary trained without its alphabet leaves out what it never saw, and says nothing."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the cat sat"] * 9, vocab_size=300, show_progress=False)
    bpe._tokenizer.train_from_iterator(["the cat sat"] * 9, tokenizers.trainers.BpeTrainer(show_progress=False))
    bpe.save(str(tmp_path / "few.json"))
    assert bpe.decode(bpe.encode("the Zcat").ids) == "the cat", "what the library does"
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "[UNK]": 1, "cat": 2}, unk_token="[UNK]"))
    word_level.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    word_level.save(str(tmp_path / "words.json"))
    for name, text, said in (("few", "the Zcat", "'Z' .* offset 4"), ("words", "the bat", "'b' .* offset 4")):
        with pytest.raises(DataError, match=f"character {said} is none that the tokenizer knows"):
            build_tokenizer(Config("json", str(tmp_path / f"{name}.json")), [EMBEDDED]).encode(text)
    assert build_tokenizer(Config("json", str(tmp_path / "words.json")), [EMBEDDED]).encode("the  cat\n") == [
        0,
        2,
    ]


@pytest.mark.parametrize("text", ["é東", "ab", "a東", ""])
def test_the_first_tokens_bytes_are_what_sentencepiece_itself_counts(tmp_path, text):
    """Of a character that several tokens share the last has all bytes. Where each byte is a token all kinds agree."""
    path = pieces(
        tmp_path, "abab\n" * 50, vocab_size=262, byte_fallback=True, model_type="char", hard_vocab_limit=False
    )
    model = build_tokenizer(Config("sentencepiece", path), [EMBEDDED])
    shown = [piece for piece in model.processor.encode(text, out_type="proto").pieces if piece.piece != "▁"]
    expected = len(shown[0].surface.encode()) if shown else 0
    made = build_tokenizer(Config("json", json_file(tmp_path, [])), [EMBEDDED])
    assert made.first_token_bytes(text) == expected
    assert Characters("abé東").first_token_bytes(text) == len(text[:1].encode())
    assert build_tokenizer(Config("bytes"), [EMBEDDED]).first_token_bytes(text) == bool(text)


def test_text_that_a_tokenizer_changes_is_told_with_its_place_and_counted_as_it_comes_back(tmp_path):
    """SentencePiece's own rules make one space of all white space: newlines are lost, and may not lower bits a byte."""
    path = pieces(tmp_path, "the cat sat on the mat\n" * 50, vocab_size=13)
    config = Config("sentencepiece", path)
    tokenizer = build_tokenizer(config, [EMBEDDED])
    (tmp_path / "text.txt").write_text("the cat\n\nsat")
    for text, size, change in (
        ("the cat sat", 11, None),
        ("the cat\n\nsat", 11, r"text.txt: '\n\nsat' at offset 7 comes back as ' sat'"),
        (" the cat", 7, r"text.txt: ' the cat' at offset 0 comes back as 'the cat'"),
    ):
        found = documents.encode_text(tokenizer, text, "text.txt")
        assert (found.bytes, found.change) == (size, change)
    lines: list[str] = []
    for _ in range(2):  # made, and found in the cache
        open_store(Source(str(tmp_path / "text.txt")), tokenizer, tmp_path / "cache", lines.append)
    assert [line.startswith("the tokenizer does not keep the text as it is") for line in lines] == [False, True, True]


@pytest.mark.parametrize(
    "text, decoded, size",
    [
        ("a b", "a b", 3),
        ("a\n\nb", "a b", 3),
        ("  a", "a", 1),
        ("Story: Ada ran.\n\n\n", "story : ada ran.", 15),  # WordPiece: a space of its own, and newlines lost
        ("é", "e", 1),
        ("ab", "", 0),
    ],
)
def test_preserved_bytes_are_those_of_the_characters_that_came_back(text, decoded, size):
    assert documents.preserved_bytes(text, decoded) == size


def test_the_change_that_is_named_is_not_the_space_that_some_put_in_front():
    class Lowering(Bytes):
        lossless = False

        def decode(self, ids: list[int]) -> str:
            return " " + super().decode(ids).lower()

    change = documents.encode_text(Lowering(), "ada Ran", "text.txt").change
    assert change == "text.txt: 'Ran' at offset 4 comes back as 'ran'"


def test_text_without_a_token_is_refused_and_leaves_no_store(tmp_path):
    """White space alone, where the tokenizer drops it and has no token that begins or ends a text."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "[UNK]": 1}, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "words.json"))
    tokenizer = build_tokenizer(Config("json", str(tmp_path / "words.json")), [EMBEDDED])
    (tmp_path / "text.txt").write_text(" \n \n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"text.txt: no text in it that the tokenizer makes a token of"):
            open_store(Source(str(tmp_path / "text.txt")), tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("manifest.json"))


def test_a_word_of_known_characters_that_is_unknown_is_named(tmp_path):
    vocabulary = {"[UNK]": 0, "a": 1, "b": 2, "##b": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    tokenizer = build_tokenizer(Config("json", str(tmp_path / "words.json")), [EMBEDDED])
    assert tokenizer.encode("ab b") == [1, 3, 2]
    with pytest.raises(DataError, match=r"^'ba' at offset 3 is none that the tokenizer knows"):
        tokenizer.encode("ab ba")


def test_notes_are_said_by_whoever_builds(tmp_path):
    lines: list[str] = []
    path = json_file(tmp_path, ["<mask>"], change=CHANGES["truncation"])
    build_tokenizer(Config("json", path), [EMBEDDED], lines.append)
    assert ["not done here" in lines[0], "marks no token" in lines[1], len(lines)] == [True, True, 2]
