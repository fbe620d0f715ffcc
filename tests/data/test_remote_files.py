"""Files that URLs name: in memory, on a real server that speaks S3, over HTTP; what is listed, read, and refused."""

import functools
import gzip
import hashlib
import http.server
import json
import os
import pickle
import sys
import threading
import urllib.request

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data.config import Source
from data.errors import DataError
from data.sources import source as sources
from data.sources.document import Refusal
from data.sources.files import list_files

FILES = {
    "a.txt": b"one",
    "b.jsonl.gz": gzip.compress(b'{"text": "two"}\n{"text": "three"}\n{'),
    "deep/er/c.md": "zwö".encode(),
    "deep/d.csv": b"text\nfour\n",
    "deep/empty.txt": b"",
    ".hidden/e.txt": b"no",
    "deep/.f.txt": b"no",
    "deep[1]/g.txt": b"five",
}


def put(url: str, files: dict[str, bytes]) -> str:
    """Writes files as another program would, of whose writing the reader's file system is not told."""
    for name, content in files.items():
        with fsspec.open(f"{url}/{name}", "wb", skip_instance_cache=True) as file:
            file.write(content)
    return url


@pytest.fixture
def memory():
    """A folder in memory with FILES."""
    yield put("memory://place", FILES)
    fsspec.filesystem("memory").rm("/place", recursive=True)


@pytest.fixture(scope="module")
def s3():
    """A bucket with FILES, on a server of this process."""
    from moto.server import ThreadedMotoServer  # takes 1.5 s to import

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield put("s3://bucket/place", FILES)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def read(url: str) -> list[str]:
    found = []
    for file in sources.open_source(Source(url)):
        found += [item.reason if isinstance(item, Refusal) else item.text for item in file.documents()]
    return found


def named(url: str, top: str) -> list[str]:
    return [file.name.split(f"{top}/", 1)[1] for file in sources.open_source(Source(url))]


def refused(url: str) -> str:
    with pytest.raises(DataError) as error:
        list(sources.read_documents(Source(url)))
    assert "\n" not in str(error.value) and str(error.value).startswith(url.partition("*")[0])
    return str(error.value)


def check_place(url: str) -> None:
    """What FILES are read as, and how the files say whether they were changed."""
    *texts, refusal = read(f"{url}/b.jsonl.gz")
    assert texts == ["two", "three"] and refusal.startswith(f"{url}/b.jsonl.gz:3: not a JSON value")
    assert read(f"{url}/**/*.[mc]*") == ["four", "zwö"]
    a = sources.open_source(Source(f"{url}/a.txt"))[0]
    assert (a.name, a.size, a.format) == (f"{url}/a.txt", 3, "")
    assert [item.text for item in pickle.loads(pickle.dumps(a)).documents()] == ["one"]
    assert a.digest() == hashlib.sha256(b"one").hexdigest()
    assert json.loads(json.dumps(a.stamp)) == sources.open_source(Source(f"{url}/a.txt"))[0].stamp
    put(url, {"a.txt": b"ONE"})
    assert sources.open_source(Source(f"{url}/a.txt"))[0].stamp != a.stamp
    put(url, {"a.txt": b"one", "new.txt": b"new"})
    assert "new.txt" in named(url, "place")
    fsspec.core.url_to_fs(url)[0].rm(f"{url}/new.txt")


def test_a_folder_in_memory_is_read(memory):
    check_place(memory.replace("memory://", "memory:///"))


def test_a_folder_of_an_object_store_is_read(s3):
    check_place(s3)


@pytest.mark.parametrize(
    "pattern", ["", "*", "**", "**/*", "**/*.txt", "*/*", "deep/**", "d*/.f*", ".hidden/*", "*/**/*.md", "**/**/c.md"]
)
def test_a_remote_glob_names_what_a_local_one_does(tmp_path, memory, pattern):
    for name, content in FILES.items():
        (tmp_path / "place" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / name).write_bytes(content)
    expected = [
        os.path.relpath(file.name, tmp_path / "place") for file in list_files(str(tmp_path / "place" / pattern))
    ]
    assert named(f"{memory}/{pattern}", "place") == expected


def test_a_remote_place_has_the_fingerprint_of_a_local_one(tmp_path, s3):
    for name in ("a.txt", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES[name])
    assert sources.fingerprint(Source(f"{s3}/**/[ad].*")) == sources.fingerprint(Source(str(tmp_path)))


def test_parquet_is_read_from_an_object_store(s3, tmp_path):
    rows = [f"row {i}" for i in range(1000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=100)
    content = (tmp_path / "a.parquet").read_bytes()
    url = put(s3.replace("place", "tables"), {"a.parquet": content, "cut.parquet": content[:-100]})
    assert read(f"{url}/a.parquet") == rows
    assert "cut.parquet: not a parquet file that can be read" in refused(f"{url}/cut.parquet")


def test_what_is_not_in_an_object_store_is_named(s3):
    for path in ("a.txt", "*.txt"):
        assert "not found (The specified bucket does not exist)" in refused(f"s3://no-such-bucket/{path}")
    assert "not found (Not Found)" in refused("s3://no-such-bucket")
    assert "none: not found (bucket/place/none); check the name" in refused(f"{s3}/none")
    assert "no such file, folder or match" in refused(f"{s3}/*.none")


def allow_requests(number: int) -> None:
    """After this number of requests the server asks for credentials that it knows, and it knows none."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    request = urllib.request.Request(url, str(number).encode(), {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def test_an_object_store_that_asks_for_other_credentials_or_for_any_is_named(s3, monkeypatch):
    """The server answers 403, as those do that know no such key."""
    file = sources.open_source(Source(f"{s3}/a.txt"))[0]
    allow_requests(0)
    try:
        for path in ("a.txt", "**/*.txt", "deep"):
            assert "access is denied (" in refused(f"{s3}/{path}")
        with pytest.raises(DataError, match=r"a.txt: access is denied \(.*\); check the credentials and the name"):
            list(file.documents())
    finally:
        allow_requests(1_000_000)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else the machine's own address for them is asked first
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert "can't be read (NoCredentialsError: Unable to locate credentials)" in refused(f"{s3}/a.txt")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_what_is_not_in_memory_or_no_text_is_named(memory):
    assert "place/none: not found" in refused(f"{memory}/none")
    assert "every file there is empty" in refused(f"{memory}/deep/em*")
    put(memory, {"bad/a.txt": b"a\xff", "bad/b.jsonl": b'"b"'})
    said = refused(f"{memory}/bad".replace("://", ":///"))
    assert "not UTF-8 at byte 1" in said and said.endswith("; to leave such files out, name a glob of others")


def test_a_file_that_goes_away_is_named(memory):
    (file,) = sources.open_source(Source(f"{memory}/a.txt"))
    fsspec.filesystem("memory").rm("/place/a.txt")
    with pytest.raises(DataError, match=r"memory:///place/a.txt: not found"):
        list(file.documents())


@pytest.mark.parametrize(
    "url, said",
    [
        ("gs://bucket/a", "the library that reads gs:// is not installed; pip install 'skald[gcs]'"),
        ("sftp://host/a", "the library that reads sftp:// is not installed; SFTPFileSystem requires"),
        ("strange://a", "unknown kind of source; fsspec knows no strange://"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(url, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "paramiko", None)
    assert said in refused(url)


class Answers(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_file_is_read_over_http(tmp_path):
    (tmp_path / "a b.jsonl").write_text('"one"\n"two"\n')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Answers, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert read(f"{url}/a%20b.jsonl") == ["one", "two"]
        assert "none.jsonl: not found (404, message='File not found'" in refused(f"{url}/none.jsonl")
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
    assert "not found (Cannot connect to host" in refused(f"{url}/none.jsonl")
