"""Templates: what a record becomes, which of it is the response, and how wrong ones are refused."""

import itertools
import json

import numpy as np
import pytest
import tokenizers

from data.config import Data, Source, Tokenizer
from data.errors import DataError
from data.pipeline import open_pipeline
from data.sources.source import fingerprint, read_documents, read_records
from data.store.store import open_store
from data.templates import Part, Template
from data.tokenizers.tokenizer import build_tokenizer

PAIR = "{{ en }}\n{% generation %}{{ de }}{% endgeneration %}"
CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{% else %}{{ message['content'] }}<|end|>"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One & one?"},
    {"role": "assistant", "content": "Two <2>"},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_stands_within_generation_is_the_response():
    template = Template(PAIR)
    assert template.fields == ["de", "en"]
    record = {"en": "A dog.", "de": "Ein Hund."}
    assert template.parts(record) == [Part("A dog.\n", False), Part("Ein Hund.", True)]
    assert template.divide(record) == ("A dog.\n", "Ein Hund.")


def test_a_value_that_looks_like_jinja_or_a_mark_stays_as_it_is():
    value = "{% endgeneration %}{{ de }}<generation>"
    assert Template(PAIR).divide({"en": value, "de": value}) == (f"{value}\n", value)


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_every_message_of_the_assistant_is_a_response(source):
    parts = Template(source).parts({"messages": CHAT})
    counted = [part.text.rstrip("\n") for part in parts if part.counted]
    assert counted == ["Two <2><|end|>", "Yes.<|end|>"]
    assert "".join(part.text for part in parts) == (
        "<|system|>Be short.<|end|>\n<|user|>One & one?<|end|>\n<|assistant|>Two <2><|end|>\n<|user|>Sure?<|end|>\n"
        "<|assistant|>Yes.<|end|>\n"
    )


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_chat_templates_write_what_hugging_face_writes(source):
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    texts, spans = render(
        [CHAT], chat_template=source, return_assistant_tokens_mask=source == MARKED, bos_token="", eos_token=""
    )
    parts = Template(source).parts({"messages": CHAT})
    assert "".join(part.text for part in parts) == texts[0]
    if source == MARKED:
        assert [texts[0][start:stop] for start, stop in spans[0]] == [part.text for part in parts if part.counted]


def test_a_template_reaches_nothing_but_the_record():
    for expression in ("''.__class__.__mro__", "cycler.__init__.__globals__", "lipsum.__globals__['os']"):
        with pytest.raises(DataError, match="can't be filled in"):
            Template(f"{{{{ {expression} }}}}{PAIR}").parts({"en": "", "de": ""})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ text }}", "no response in the template"),
        ("{% generation %}{{ text }}", "not a Jinja template"),
        ("no/such.jinja", "can't be read .No such file or directory"),
    ],
)
def test_wrong_templates_are_refused(source, message):
    with pytest.raises(DataError, match=message) as caught:
        Template(source)
    assert "\n" not in str(caught.value)


def test_a_chat_template_that_rewrites_the_beginning_is_refused():
    source = "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(DataError, match="mark the responses"):
        Template(source).parts({"messages": CHAT})


def test_only_responses_count_and_each_document_sees_itself_alone(tmp_path):
    """The rows of a template's documents are those of records with the same prompt and text written out."""
    pairs = [("a dog", "ein Hund"), ("two", "zwei"), ("the red house", "das rote Haus"), ("x", ""), ("no", "nein")] * 9
    template = tmp_path / "pair.jinja"
    template.write_text(PAIR)
    write_lines(tmp_path / "a.jsonl", [{"en": en, "de": de, "n": 3} for en, de in pairs])
    write_lines(tmp_path / "b.jsonl", [{"q": f"{en}\n", "text": de} for en, de in pairs])
    sources = [
        Source(str(tmp_path / "a.jsonl"), template=str(template)),
        Source(str(tmp_path / "a.jsonl"), template=PAIR),
        Source(str(tmp_path / "b.jsonl"), prompt="q"),
    ]
    rows = []
    for source in sources:
        config = Data(source, Tokenizer("bytes"), 64, "best_fit", split="position")
        rows.append(open_pipeline(config, 4, 0, tmp_path / "cache").rows(0, 0, 4))
    for made in rows[1:]:
        for left, right in zip(rows[0], made, strict=True):
            np.testing.assert_array_equal(left, right)
    counted = bytes(rows[0].targets[rows[0].weights > 0].astype(np.uint8).tolist()).decode()
    assert rows[0].weights.sum() and "\n" not in counted and "dog" not in counted
    assert fingerprint(sources[0]) == fingerprint(sources[1])
    template.write_text(PAIR.replace("\n", " = "))
    assert fingerprint(sources[0]) != fingerprint(sources[1])


def test_a_field_that_a_template_reads_must_be_there(tmp_path):
    source = Source(str(write_lines(tmp_path / "a.jsonl", [{"en": "a"}])), template=PAIR)
    with pytest.raises(DataError, match=r"a\.jsonl:1: no field 'de'; there: 'en'"):
        list(read_documents(source))
    with pytest.raises(DataError, match="leave out prompt"):
        list(read_documents(Source(source.path, prompt="en", template=PAIR)))


def test_records_are_read_with_values_of_any_type(tmp_path):
    records = [{"choices": ["a", "b"], "answer": 1, "text": "x" * 5000}, {"choices": [], "answer": None, "text": "é"}]
    source = Source(str(write_lines(tmp_path / "a.jsonl", records)))
    read = list(read_records(source, ["choices", "answer", "text"]))
    assert [record for record, _ in read] == records
    assert read[1][1].endswith("a.jsonl:2")


@pytest.mark.parametrize("packing", ["best_fit", "padding"])
def test_a_response_longer_than_a_row_is_refused_or_left_out(tmp_path, packing):
    pairs = [{"en": "a", "de": "b" * size} for size in (3, 8, 62, 63, 200, 5)]
    source = Source(str(write_lines(tmp_path / "a.jsonl", pairs)), template=PAIR)
    other = Source(str(write_lines(tmp_path / "b.jsonl", [{"en": "c", "de": "d"}])), template=PAIR)
    config = Data(source, Tokenizer("bytes"), 63, packing, validation_source=other)
    with pytest.raises(DataError, match=r"2 of 6 documents .* record 4 of file 1 .* data\.length=201 holds all"):
        open_pipeline(config, 2, 0, tmp_path / "cache")
    lines = []
    dropping = Data(source, Tokenizer("bytes"), 63, packing, "drop", validation_source=other)
    pipeline = open_pipeline(dropping, 2, 0, tmp_path / "cache", report=lines.append)
    assert any("2 of 6 documents are longer than a row of data.length=63 and left out" in line for line in lines)
    assert len(pipeline.sources[0].documents) == 4
    rows = pipeline.rows(0, 0, pipeline.sources[0].packing.rows_per_epoch)
    assert rows.weights.sum() == 3 + 8 + 62 + 5


def words_tokenizer(folder, end):
    """One of the words in RECORDS, with <s> and `end` as special tokens: the library's, and ours of the same file."""
    vocabulary = {word: id_ for id_, word in enumerate(["<unk>", "<s>", "</s>", "why", "so", "no"])}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<s>", "</s>"])
    library.save(str(folder / "words.json"))
    return library, build_tokenizer(Tokenizer("json", str(folder / "words.json"), start="<s>", end=end), [])


@pytest.mark.parametrize("end", ["</s>", "<s>"])
@pytest.mark.parametrize("rejected", [None, "c"])
def test_start_and_end_tokens_that_a_template_writes_out_are_not_doubled(tmp_path, end, rejected):
    records = [{"q": "why", "a": "so", "c": "no"}, {"q": "", "a": "so why", "c": ""}, {"q": "", "a": "", "c": "so"}]
    path = write_lines(tmp_path / "a.jsonl", records)
    library, tokenizer = words_tokenizer(tmp_path, end)
    for before, behind in itertools.product(("", "<s> "), ("", f" {end}")):
        template = f"{before}{{{{ q }}}} {{% generation %}}{{{{ a }}}}{behind}{{% endgeneration %}}"
        source = Source(str(path), "a", template=template, rejected=rejected)
        documents = open_store(source, tokenizer, tmp_path / "cache").documents
        found = [documents.tokens[a:b].tolist() for a, b in itertools.pairwise(documents.offsets)]
        whole = [[f"<s> {r['q']} {r[name]} {end}" for name in ("a", rejected) if name] for r in records]
        assert found == [library.encode(" ".join(texts)).ids for texts in whole]
        if not rejected:
            counts = [documents.counts(np.arange(a + 1, b)).tolist() for a, b in itertools.pairwise(documents.offsets)]
            assert counts[:2] == [[False, True, True], [True, True, True]]
