"""Data sets of Hugging Face's own package come back as they went in, without a network, or are refused in one line."""

import datetime
import json
import pickle
import re
import sys

import numpy as np
import pytest

from data.config import Data, Source, Tokenizer
from data.errors import DataError
from data.pipeline import open_pipeline
from data.sources import hub
from data.sources.document import Refusal
from data.sources.source import open_source

datasets = pytest.importorskip("datasets", reason="the optional package datasets (skald[hf]) is not installed")

ROWS = {
    "text": [f"Tale {number}\r\n{'Es war einmal … ' * number}" for number in range(100)],
    "title": [f"Tale {number}" for number in range(100)],
    "tokens": [list(range(number % 7)) for number in range(100)],
    "number": list(range(100)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("hf") / "saved")
    datasets.Dataset.from_dict(ROWS).save_to_disk(folder)
    return folder


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A data set `tales` that `datasets` has in its cache, and no network."""
    folder = tmp_path / "tales"
    folder.mkdir()
    for split, count in (("train", 100), ("test", 5)):
        lines = [json.dumps({"text": text}) + "\n" for text in ROWS["text"][:count]]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.load_dataset(str(folder))
    return tmp_path


def documents(path: str, ids: bool = False, **fields) -> list:
    return [document for file in open_source(Source(path, **fields), ids) for document in file.documents()]


def error_of(path: str, ids: bool = False, **fields) -> str:
    with pytest.raises(DataError) as error:
        documents(path, ids, **fields)
    assert "\n" not in str(error.value) and str(error.value).startswith(path)
    return str(error.value)


@pytest.mark.parametrize("rows", ["", "[:10%]", "[20:30]", "[-5:]"])
def test_a_saved_folder_is_read_as_datasets_reads_it(saved, rows):
    selected = datasets.Dataset.from_dict(ROWS)
    [part] = datasets.ReadInstruction.from_spec(f"all{rows}").to_absolute({"all": 100})
    assert [d.text for d in documents(f"hf:{saved}{rows}")] == selected[part.from_ : part.to]["text"]


def test_a_selection_in_another_order_keeps_its_order(tmp_path):
    datasets.Dataset.from_dict(ROWS).select([5, 3, 1]).save_to_disk(tmp_path / "selected")
    assert [d.text for d in documents(f"hf:{tmp_path}/selected")] == [ROWS["text"][row] for row in (5, 3, 1)]


def test_a_cached_data_set_is_read_without_a_network(cached):
    assert [d.text for d in documents("hf:tales/train")] == ROWS["text"]
    assert [d.text for d in documents("hf:tales:default/train[:7%]")] == ROWS["text"][:7]


def test_a_prompt_stands_before_the_text_and_does_not_count(saved):
    read = [(*document.pieces,) for document in documents(f"hf:{saved}", prompt="title")]
    assert [(prompt.content, text.content) for prompt, text in read] == [*zip(ROWS["title"], ROWS["text"], strict=True)]
    assert {(prompt.counted, text.counted) for prompt, text in read} == {(False, True)}


def test_a_list_of_integers_is_read_as_token_ids(saved):
    read = [document.pieces[0].content for document in documents(f"hf:{saved}", ids=True, field="tokens")]
    assert {tokens.dtype for tokens in read} == {np.dtype(np.int64)}
    assert [tokens.tolist() for tokens in read] == ROWS["tokens"]


def test_slices_of_token_ids_are_training_and_validation(saved, tmp_path):
    parts = [Source(f"hf:{saved}[{rows}]", field="tokens") for rows in (":70%", "70%:")]
    config = Data(parts[0], Tokenizer("ids", vocab_size=8), 2, validation_source=parts[1])
    pipeline = open_pipeline(config, 1, 0, tmp_path)
    assert [len(split.documents) for (split,) in pipeline.splits] == [70, 30]
    assert pipeline.validation[0].bytes == sum(max(0, len(ids) - 1) for ids in ROWS["tokens"][70:])


def test_a_row_without_text_is_a_refusal_with_its_number(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", None, "b"]}).save_to_disk(tmp_path / "gap")
    first, refusal, last = documents(f"hf:{tmp_path}/gap")
    assert (first.text, last.text) == ("a", "b")
    assert isinstance(refusal, Refusal) and "gap#1: feature 'text' is NoneType, not text" in refusal.reason


def test_dates_are_text_for_a_template(tmp_path):
    """The digest is of them, too."""
    digests, template = [], "{{ when }}: {% generation %}{{ text }}{% endgeneration %}"
    for day in (1, 2):
        rows = {"when": [datetime.date(2020, 3, day)], "text": ["a"]}
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / f"dated{day}")
        [file] = open_source(Source(f"hf:{tmp_path}/dated{day}", template=template))
        assert ["".join(piece.content for piece in d.pieces) for d in file.documents()] == [f"2020-03-0{day}: a"]
        digests.append(file.digest())
    assert digests[0] != digests[1]


def test_a_large_data_set_comes_in_parts(saved, monkeypatch):
    """Several processes prepare them at the same time."""
    monkeypatch.setattr(hub, "PART_BYTES", 20_000)
    files = open_source(Source(f"hf:{saved}"))
    assert len(files) > 3
    sent = pickle.loads(pickle.dumps(files))
    assert [document.text for file in sent for document in file.documents()] == ROWS["text"]
    assert len({file.digest() for file in files}) == len({str(file.stamp) for file in files}) == len(files)


def test_the_digest_is_of_the_fields_read(saved):
    [file], [again], [other] = (open_source(Source(f"hf:{saved}", field=f)) for f in ("text", "text", "title"))
    list(file.documents())
    assert file.digest() == again.digest() != other.digest()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hf:tales/nope", "Unknown split"),
        ("hf:tales/train[200:300]", "corresponds to no data"),
        ("hf:tales/train[30:20]", "no row in it"),
        ("hf:tales/train[::2]", "Unrecognized instruction format"),
        ("hf:tales:short/train", "Couldn't find cache for tales for config 'short'"),
        ("hf:nobody/tales/train", "Couldn't find cache for nobody/tales.*Couldn't reach"),
        ("hf:tales", "hf:NAME/SPLIT"),
        ("hf:", "hf:NAME/SPLIT"),
    ],
)
def test_what_is_not_there_is_named(cached, path, said):
    assert re.search(said, error_of(path))


@pytest.mark.parametrize("rows", ["[100:]", "[7:7]", "[9:5]", "[200:300]"])
def test_a_slice_without_rows_is_an_error(saved, rows):
    assert "no row in it" in error_of(f"hf:{saved}{rows}")


def test_folders_that_save_to_disk_did_not_write_are_refused(cached):
    """load_dataset itself would read any text or table below such a folder."""
    assert "no data set in this folder" in error_of(f"hf:{cached / 'tales'}")
    assert "no such folder" in error_of(f"hf:{cached / 'tales'}/train")


def test_a_folder_of_several_splits_says_how_to_name_one(tmp_path):
    saved = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "both")
    path = error_of(f"hf:{tmp_path}/both").split("as ")[-1]
    assert [d.text for d in documents(path)] == ROWS["text"]


def test_a_missing_feature_lists_those_there(saved):
    with pytest.raises(DataError, match="'body'; there: 'text', 'title', 'tokens', 'number'; set the source's field"):
        open_source(Source(f"hf:{saved}", field="body"))


def test_a_feature_of_another_type_is_named(saved):
    assert "feature 'number' is not a text, but Value('int64')" in error_of(f"hf:{saved}", field="number")
    assert "feature 'text' is not a list of whole numbers" in error_of(f"hf:{saved}", ids=True)


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_file_that_was_cut_off_is_one_line(saved, tmp_path, kept):
    datasets.load_from_disk(saved).save_to_disk(tmp_path / "cut")
    [file] = (tmp_path / "cut").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:kept])
    error_of(f"hf:{tmp_path}/cut")


def test_without_the_package_one_line_names_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'skald[hf]'" in error_of(f"hf:{saved}")
