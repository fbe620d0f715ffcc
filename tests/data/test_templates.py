"""Templates: what a record becomes, which of it is the response, and how wrong ones are refused."""

import datetime
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import tokenizers

from data.config import Data, Source, Tokenizer
from data.documents import Documents, Pieces
from data.errors import DataError
from data.pipeline import open_pipeline
from data.sources.plain_values import plain_value
from data.sources.source import fingerprint, read_documents, read_records
from data.store.store import open_store
from data.templates import MARK, Part, Template
from data.tokenizers.tokenizer import build_tokenizer
from data.without_response import count_without_response

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


@pytest.mark.parametrize("fields", [{}, {"system": "SYS"}, {"tools": [{"name": "f"}], "enable_thinking": False}])
@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_a_chat_template_has_the_other_fields_of_a_record_as_hugging_face_gives_them(source, fields):
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    source = (
        "{% if tools is not none %}{{ tools | tojson }}{% endif %}"
        "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}{{ system }}" + source
    )
    template = Template(source)
    assert template.fields == ["enable_thinking", "messages", "system", "tools"] and template.required == ["messages"]
    (text,), _ = render([CHAT], chat_template=source, bos_token="", **fields)
    parts = template.parts(fields | {"messages": CHAT, "eos_token": "no field", "n": 3})
    assert "".join(part.text for part in parts) == text
    assert [part.text.rstrip("\n") for part in parts if part.counted] == ["Two <2><|end|>", "Yes.<|end|>"]


@pytest.mark.parametrize("expression", ["a", "q ~ a", "a | trim", "'x' ~ (a | upper)", "{'b': a}.b"])
def test_null_that_is_written_out_is_refused(tmp_path, expression):
    template = "{{ q }}{% generation %}{{ " + expression + " }}{% endgeneration %}"
    path = write_lines(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}, {"q": "x", "a": None}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: the template writes a value that is null; write {{ x or '' }}"):
        list(read_documents(Source(str(path), template=template)))
    spared = Template(
        "{{ q }}{% if a is not none %}{{ a }}{% endif %}{% generation %}{{ a or '-' }}{% endgeneration %}"
    )
    assert spared.parts({"q": "x", "a": None}) == [Part("x", False), Part("-", True)]


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}A{% generation %}{{ a }}{% endgeneration %}B{% endgeneration %}",
        "{% set r %}{% generation %}{{ a }}{% endgeneration %}{% endset %}{{ r | upper }}",
        "{% set r %}{% generation %}{{ a }}{% endgeneration %}{% endset %}{{ r[:40] }}",
        "{% set r %}{% generation %}{{ a }}{% endgeneration %}{% endset %}{{ r }}{{ r | upper }}",
        "{% set r %}{% generation %}{{ a }}{% endgeneration %}{% endset %}none",
    ],
    ids=["nested", "changed", "cut", "twice", "left out"],
)
def test_a_mark_that_is_changed_or_within_another_is_refused_and_never_in_the_text(source):
    template = Template(source)
    for _ in range(2):
        with pytest.raises(DataError, match="write each response where it is marked") as caught:
            template.parts({"a": "abc"})
        assert "\n" not in str(caught.value) and MARK not in str(caught.value)
    whole = Template("{% set r %}{% generation %}{{ a }}{% endgeneration %}{% endset %}Q{{ r }}")
    assert whole.parts({"a": "abc"}) == [Part("Q", False), Part("abc", True)]


def test_values_reach_a_template_as_plain_python_values():
    value = {
        "a": np.arange(3, dtype=np.int16), "b": np.float32(0.5), "c": np.array([b"d\xc3\xa9", b""], object),
        "d": [(np.bool_(True), None)], "e": datetime.date(2020, 1, 2),
    }  # fmt: skip
    plain = {"a": [0, 1, 2], "b": 0.5, "c": ["dé", ""], "d": [[True, None]], "e": "2020-01-02"}
    assert repr(plain_value(value, "x")) == repr(plain)
    for wrong in (object(), [{"a": b"\xff"}]):
        with pytest.raises(DataError, match=r"^x: field 'f' holds"):
            plain_value(wrong, "x: field 'f'")


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


OPTIONAL = "{% if c is defined %}{{ c }} {% endif %}{{ q }}{% generation %}{{ a }}{% endgeneration %}"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_field_that_a_template_guards_may_be_missing(tmp_path, ending):
    def texts(template, **record):
        path = tmp_path / f"a.{ending}"
        if ending == "jsonl":
            write_lines(path, [record])
        elif ending == "csv":
            path.write_text(f"{','.join(record)}\n{','.join(record.values())}\n")
        else:
            pytest.importorskip("pyarrow.parquet").write_table(
                pytest.importorskip("pyarrow").table({name: [value] for name, value in record.items()}), path
            )
        return [document.text for document in read_documents(Source(str(path), template=template))]

    assert texts(OPTIONAL, q="Q", a="A") == ["QA"]
    assert texts(OPTIONAL, q="Q", a="A", c="C") == ["C QA"]
    with pytest.raises(DataError, match=r"a\.\w+[:#]\d: no field 'a'; there: 'q', 'd'; set the source's field"):
        texts(OPTIONAL, q="Q", d="D")
    with pytest.raises(DataError, match=r"no (field|column) 'a' or 'c' or 'q'; there: 'x', 'y'; set the source's"):
        texts(OPTIONAL, x="Q", y="D")
    with pytest.raises(DataError, match=r"no (field|column) 'messages'; there: 'x'; set the source's field"):
        texts(CHATML, x="Q")


@pytest.mark.parametrize("source", [CHATML, MARKED])
@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"from": "human", "value": "hi"}, r"messages\[1\] has no 'role'; there: 'from', 'value'; rename its keys"),
        ({"role": "human", "value": "hi"}, r"messages\[1\] has no 'content'; there: 'role', 'value'; rename its keys"),
    ],
)
def test_a_message_without_role_or_content_is_refused(source, message, line):
    with pytest.raises(DataError, match=line):
        Template(source).parts({"messages": [CHAT[0], message]})


def conversations(answered: int, others: int) -> list[dict]:
    roles = ["assistant"] * answered + ["gpt"] * others
    return [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": role, "content": f"{i}"}]}
        for i, role in enumerate(roles)
    ]


@pytest.mark.parametrize(
    ("template", "records", "line"),
    [
        (CHATML, conversations(0, 9), "no message has the role 'assistant'; roles there: 'user', 'gpt'"),
        (MARKED, conversations(0, 9), "its chat template marks no response in any record; roles there: 'user', 'gpt'"),
        ("{{ q }}{% if r %}{% generation %}{{ q }}{% endgeneration %}{% endif %}", [{"q": "abc", "r": ""}],
         "its template writes no response within {% generation %}…{% endgeneration %} of any record"),
        (None, [{"q": "abc", "text": ""}], "all its tokens are of prompts, every text of field 'text' is empty"),
    ],
)  # fmt: skip
def test_where_nothing_counts_the_line_says_what_is_wrong(tmp_path, template, records, line):
    prompt = "q" if template is None else None
    source = Source(str(write_lines(tmp_path / "a.jsonl", records)), template=template, prompt=prompt)
    other = Source(str(write_lines(tmp_path / "b.jsonl", [{"q": "c", "text": "d"}])), prompt="q")
    config = Data(source, Tokenizer("bytes"), 80, "best_fit", validation_source=other)
    with pytest.raises(DataError) as caught:
        open_pipeline(config, 2, 0, tmp_path / "cache")
    assert str(caught.value) == f"{source.path}: nothing to train on: {line}"


def test_documents_in_which_nothing_counts_are_counted(tmp_path):
    source = Source(str(write_lines(tmp_path / "a.jsonl", conversations(5, 3))), template=CHATML)
    other = Source(str(write_lines(tmp_path / "b.jsonl", conversations(1, 0))), template=CHATML)
    config = Data(source, Tokenizer("bytes"), 80, "best_fit", validation_source=other, drop_duplicates=False)
    lines = []
    open_pipeline(config, 2, 0, tmp_path / "cache", report=lines.append)
    assert f"{source.path}: 3 of 8 documents have no response, and nothing of them counts" in lines


@pytest.mark.parametrize("chosen", [None, np.array([0, 3, 4, 19, 39])])
@pytest.mark.parametrize("pairs", [False, True])
def test_documents_without_a_response_are_those_that_enumeration_finds(chosen, pairs):
    random = np.random.default_rng(3)
    lengths = random.integers(0, 6, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    halves = offsets[:-1] + random.integers(0, lengths + 1)
    starts = np.sort(np.concatenate([offsets[:-1], random.integers(0, offsets[-1], 30)]))  # some pieces are empty
    pieces = Pieces(starts, random.random(len(starts)) < 0.2)
    tokens = np.zeros(offsets[-1], np.uint16)
    documents = Documents(tokens, offsets, lengths, False, pieces, chosen, halves=halves if pairs else None)
    expected = 0
    for number in range(len(documents)):
        targets = []
        for half in (0, 1) if pairs else (None,):
            start, stop, _ = replace(documents, half=half).bounds(np.array([number]))
            targets += range(start[0] + 1, stop[0])
        counted = [pieces.counted[max(i for i, first in enumerate(starts) if first <= target)] for target in targets]
        expected += bool(targets) and not any(counted)
    assert 0 < expected < len(documents) and count_without_response(documents) == expected


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
    lines = []
    scored = replace(dropping, source=other, validation_source=source)
    open_pipeline(scored, 2, 0, tmp_path / "cache", report=lines.append)
    cut = "2 of 6 documents are longer than a row of data.length=63: what is behind it is scored without the prompt"
    assert [cut in line for line in lines].count(True) == 1


def test_text_that_is_no_number_is_refused_by_the_filter_int_and_is_not_0():
    template = Template("{{ label | int(7) }}{% generation %}{{ ['bad', 'good'][label | int] }}{% endgeneration %}")
    assert [template.divide({"label": label}) for label in ("1", 0, "0.9")] == [
        ("1", "good"),
        ("0", "bad"),
        ("0", "bad"),
    ]
    with pytest.raises(DataError, match="the template wants a whole number, and 'positive' is none"):
        template.parts({"label": "positive"})


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
