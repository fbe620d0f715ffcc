"""Data sets that TFDS's own code prepares, here and without TensorFlow, come back as they went in, or are refused."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data.config import Source
from data.errors import DataError
from data.sources.document import Refusal
from data.sources.source import open_source, read_documents, read_records

CHAPTERS = {  # file name: text
    f"chapter-{number:03}.txt": f"Chapter {number}\r\n\n{'It was the best of times — ' * (number % 40)}\n"
    for number in range(300)
}


class Novels(tfds.core.GeneratorBasedBuilder):
    """A builder as a user writes one: an example for each text file of a folder."""

    VERSION = tfds.core.Version("1.0.0")
    folder: Path

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "title": tfds.features.Text(),
            "tokens": tfds.features.Sequence(np.int32),
            "number": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(sorted(self.folder.glob("*.txt"))),
            "test": self._generate_examples(sorted(self.folder.glob("*.txt"))[:3]),
        }

    def _generate_examples(self, paths):
        for number, path in enumerate(paths):
            text = path.read_bytes()
            yield path.name, {"text": text, "title": path.stem, "tokens": list(text[:number]), "number": number}


@pytest.fixture(scope="module")
def chapters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chapters")
    for name, text in CHAPTERS.items():
        (folder / name).write_bytes(text.encode())
    return folder


def prepare(chapters: Path, folder: Path, file_format: str = "array_record") -> None:
    Novels.folder = chapters
    Novels(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module")
def prepared_once(chapters, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(chapters, folder)
    return folder


@pytest.fixture
def prepared(prepared_once, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_once))
    return prepared_once


@pytest.fixture
def copied(prepared_once, tmp_path, monkeypatch) -> Path:
    """A copy of the prepared data set that a test may spoil."""
    shutil.copytree(prepared_once, tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data/novels/1.0.0"


def shard(folder: Path) -> Path:
    return folder / "novels-train.array_record-00000-of-00001"


def documents(path: str, ids: bool = False, **fields) -> list:
    return [document for file in open_source(Source(path, **fields), ids) for document in file.documents()]


def texts(path: str, **fields) -> list[str]:
    return [document.text for document in documents(path, **fields)]


def error_of(path: str, ids: bool = False, **fields) -> str:
    with pytest.raises(DataError) as error:
        documents(path, ids, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_users_own_data_set_comes_back_as_it_went_in(prepared):
    assert sorted(texts("tfds:novels/train")) == sorted(CHAPTERS.values())
    assert texts("tfds:novels:1.0.0/train") == texts("tfds:novels/train")


@pytest.mark.parametrize("split", ["train", "train[:10%]", "train[100:200]", "train[-7:]", "train[50:60]+test"])
def test_documents_are_those_of_tfds_in_its_order(prepared, split):
    examples = tfds.data_source("novels", split=split, data_dir=prepared, download=False)
    assert texts(f"tfds:novels/{split}") == [example["text"].decode() for example in examples]


def test_a_prompt_stands_before_the_text_and_does_not_count(prepared):
    for document in documents("tfds:novels/train[:9]", prompt="title"):
        prompt, text = document.pieces
        assert not prompt.counted and text.counted
        assert CHAPTERS[f"{prompt.content}.txt"] == text.content


def test_records_and_templates_have_features_of_any_type(prepared):
    records = [record for record, _ in read_records(Source("tfds:novels/train"), ["title", "tokens", "number"])]
    titles = sorted(Path(name).stem for name in CHAPTERS)
    assert sorted(record["title"] for record in records) == titles
    for record in records:
        number = titles.index(record["title"])
        text = CHAPTERS[f"{record['title']}.txt"].encode()
        assert record == {"title": titles[number], "tokens": list(text[:number]), "number": number}
    template = "{{ title }}{% generation %} {{ ['even', 'odd'][number % 2] }}{% endgeneration %}"
    for text in texts("tfds:novels/train[:9]", template=template):
        title, word = text.split()
        assert word == ["even", "odd"][titles.index(title) % 2]
    for text in texts("tfds:novels/train[:9]", template="{% generation %}{{ tokens }}{% endgeneration %}"):
        assert isinstance(json.loads(text), list)
    writing = Source("tfds:novels/train[:9]", template="{% generation %}{{ tokens.tofile('x') }}{% endgeneration %}")
    with pytest.raises(DataError, match="'list object' has no attribute 'tofile'"):
        list(read_documents(writing))


def test_a_sequence_of_integers_is_read_as_token_ids(prepared):
    read = [document.pieces[0].content for document in documents("tfds:novels/train", ids=True, field="tokens")]
    assert {tokens.dtype for tokens in read} == {np.dtype(np.int64)}
    contents = [list(text.encode()[:number]) for number, text in enumerate(CHAPTERS.values())]
    assert sorted(map(list, read)) == sorted(contents)


def test_each_shard_is_a_file_of_the_source(chapters, tmp_path, monkeypatch):
    """Several processes prepare them at the same time."""
    Novels.folder = chapters
    config = tfds.download.DownloadConfig(num_shards=3)
    Novels(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    examples = tfds.data_source("novels", split="train[50:]", data_dir=tmp_path, download=False)
    files = open_source(Source("tfds:novels/train[50:]"))
    assert len(files) == 3
    sent = pickle.loads(pickle.dumps(files))
    assert [d.text for file in sent for d in file.documents()] == [example["text"].decode() for example in examples]


def test_reading_needs_no_tensorflow_and_no_jax(prepared):
    program = """if True:
        import sys
        from data.config import Source
        from data.sources.source import open_source, read_records
        assert "tensorflow_datasets" not in sys.modules, "imported before it is used"
        [file] = open_source(Source("tfds:novels/train"))
        assert len(list(file.documents())) == 300 and file.digest()
        print([name for name in ("tensorflow", "jax") if name in sys.modules])
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr


def test_the_digest_is_of_the_records_read(prepared):
    [file], [again], [part] = (open_source(Source(f"tfds:novels/{s}")) for s in ("train", "train", "train[:200]"))
    list(file.documents())
    assert file.digest() == again.digest() != part.digest()
    assert file.stamp == again.stamp != part.stamp


# --- what can't be read is refused in one line ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["tfds:nobodys/train", "tfds:novels:2.0.0/train", "tfds:novels/short/train"])
def test_a_data_set_that_is_not_prepared_is_told_how_to_be(prepared, path):
    message = error_of(path)
    assert f"in {prepared} " in message and "TFDS_DATA_DIR" in message and "there: 'novels:1.0.0'" in message
    assert "download_and_prepare" in message


def test_a_folder_that_is_not_there_holds_no_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    assert "there: none" in error_of("tfds:novels/train")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("nope", r"Unknown split 'nope'. Should be one of \['train', 'test'\]"),
        ("train[500:600]", r"\[500:600\] incompatible with 300 examples"),
        ("train[:101%]", "percent slice boundaries"),
        ("train[::2]", "Unrecognized split format"),
        ("train[7:7]", "has no record"),
        ("train[10:5]", "has no record"),
        ("", "write tfds:NAME/SPLIT"),
    ],
)
def test_a_split_that_is_not_there_is_named(prepared, split, said):
    assert re.search(said, error_of(f"tfds:novels/{split}"))


def test_a_path_without_split_says_how_one_is_written(prepared):
    assert "tfds:NAME/SPLIT" in error_of("tfds:novels")


def test_a_missing_feature_lists_those_there(prepared):
    for fields in ({"field": "body"}, {"prompt": "body"}):
        with pytest.raises(
            DataError, match="'body'; there: 'number', 'text', 'title', 'tokens'; set the source's field"
        ):
            open_source(Source("tfds:novels/train", **fields))


def test_a_feature_of_another_type_is_named(prepared):
    assert "feature 'number' is not a text, but Tensor" in error_of("tfds:novels/train", field="number")
    assert "feature 'text' is not a sequence of whole numbers" in error_of("tfds:novels/train", ids=True)


@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_description_that_was_cut_off_is_an_error(copied, name, kept):
    (copied / name).write_text((copied / name).read_text()[:kept])
    assert "TFDS can't open 'novels'" in error_of("tfds:novels/train")


def test_a_name_that_tfds_does_not_take_is_an_error(prepared):
    assert "Parsing builder name string my novels failed" in error_of("tfds:my novels/train")


@pytest.mark.parametrize("file_format", ["tfrecord", "riegeli"])
def test_formats_that_need_tensorflow_are_refused_by_name(copied, file_format):
    info = copied / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', f'"{file_format}"'))
    message = error_of("tfds:novels/train")
    assert f"as {file_format}, which only TensorFlow can read" in message and f"remove {copied}" in message


def test_parquet_is_refused_because_rows_are_lost(chapters, tmp_path, monkeypatch):
    prepare(chapters, tmp_path, "parquet")
    assert len(tfds.data_source("novels", split="train", data_dir=tmp_path, download=False)) == 200  # of 300
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert "as parquet, of which TFDS 4.9 writes only some of the records" in error_of("tfds:novels/train")


def test_a_record_that_was_changed_is_refused_and_the_others_are_read(copied):
    content = bytearray(shard(copied).read_bytes())
    content[len(content) // 5] ^= 1
    shard(copied).write_bytes(content)
    read = documents("tfds:novels/train")
    [refusal] = [document for document in read if isinstance(document, Refusal)]
    assert len(read) == 300
    assert re.search(rf"{shard(copied)}#\d+: a damaged record \(.*hash mismatch", refusal.reason)


def test_a_shard_that_was_cut_off_is_an_error(copied):
    shard(copied).write_bytes(shard(copied).read_bytes()[:-1])
    assert f"{shard(copied)}: no ArrayRecord file, or its end is damaged or cut off" in error_of("tfds:novels/train")


def test_a_shard_that_is_gone_is_an_error(copied):
    shard(copied).unlink()
    assert str(shard(copied)) in error_of("tfds:novels/train")


def test_a_shard_of_fewer_records_than_tfds_wrote_is_an_error(copied):
    shutil.copy(copied / "novels-test.array_record-00000-of-00001", shard(copied))
    assert f"{shard(copied)}: 3 records, where 300 should be" in error_of("tfds:novels/train[:2]")


def test_a_shard_of_more_records_than_tfds_wrote_is_an_error(copied):
    """TFDS itself would leave out the records of test that its description does not count."""
    other = copied / "novels-test.array_record-00000-of-00001"
    shutil.copy(shard(copied), other)
    assert f"{other}: 300 records, where 3 should be" in error_of("tfds:novels/test")


def test_text_that_is_not_utf_8_is_a_refusal_with_its_number(chapters, tmp_path, monkeypatch):
    folder = tmp_path / "latin"
    folder.mkdir()
    (folder / "a.txt").write_bytes("déjà".encode("latin-1"))
    (folder / "b.txt").write_bytes(b"plain")
    prepare(folder, tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    read = documents("tfds:novels/train")
    [refusal] = [document for document in read if isinstance(document, Refusal)]
    assert len(read) == 2
    assert re.search(r"#\d: feature 'text': not UTF-8 at byte 1 \(0xe9\)", refusal.reason)
