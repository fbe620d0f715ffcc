"""Which files a path, a folder and a glob name: against Python's glob, with links, and where a file can't be had."""

import contextlib
import errno
import functools
import glob
import os
import random
from pathlib import Path

import pytest

from data.errors import DataError
from data.sources.files import list_files

PATTERNS = (
    "**",
    "**/*",
    "**/*.txt",
    "*/*.txt",
    "a*/**/*.md",
    "**/b/**",
    "**/[ab]/*",
    "a/**/**/*.txt",
    "?/.x/*",
    "**/.y",
)
pytestmark = pytest.mark.timeout(60)  # a walk in circles has no end


def named(name) -> list[str]:
    return [file.name for file in list_files(str(name))]


def below(folder: Path, *names: str) -> list[str]:
    return [str(folder / name) for name in names]


def file(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """Folders of three levels, some hidden, with files at random, and links that make no circle."""
    draw = random.Random(0)
    top = tmp_path / "tree"
    for folder in ("", "a", "b", "ab", "a/b", "b/a", "a/b/c", ".x", "a/.x", "ab/b"):
        for name in ("one.txt", "two.md", "three", ".y"):
            if draw.random() < 0.7:
                file(top / folder / name)
    file(tmp_path / "outside" / "b" / "far.txt")
    (top / "ab" / "away").symlink_to(tmp_path / "outside")
    (top / "b" / "link.txt").symlink_to("../a/b/c/deep.md")
    file(top / "a/b/c/deep.md")
    (top / "a" / "to_ab").symlink_to("../ab")
    return top


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_names_what_pythons_does_each_file_once(tree, pattern):
    expected = {os.path.realpath(p) for p in glob.glob(str(tree / pattern), recursive=True) if os.path.isfile(p)}
    found = named(tree / pattern)
    assert len(found) == len(expected) > 0 and {os.path.realpath(p) for p in found} == expected
    assert [Path(p).parts for p in found] == sorted(Path(p).parts for p in found)


def test_a_folder_and_the_glob_over_it_name_the_same(tree):
    assert named(tree) == named(tree / "**") == named(tree / "**" / "*")
    assert any("away" in name for name in named(tree)) and not any("/." in name for name in named(tree))


def test_relative_paths_and_a_home_are_understood(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    monkeypatch.setenv("HOME", str(tree.parent))
    assert named("tree") == named("tree/**") == [os.path.relpath(name) for name in named(tree)]
    assert named("~/tree/b/*.txt") == named(tree / "b" / "*.txt")
    assert named("*/b/far.txt") == ["outside/b/far.txt"]


@pytest.mark.parametrize("name", ["", "**", "**/*"])
def test_links_in_circles_come_to_an_end(tmp_path, name):
    """Python's glob goes round until the system refuses a path of 40 links: 2^40 paths where there are two."""
    top = tmp_path / "top"
    file(top / "a" / "one.txt")
    file(top / "b" / "two.txt")
    for link in ("a/up", "a/up_too", "b/up", "b/up_too"):
        (top / link).symlink_to(top)
    (top / "a" / "b").symlink_to("../b")
    (top / "b" / "a").symlink_to("../a")
    assert named(top / name) == below(top, "a/one.txt", "b/two.txt")


def test_folders_that_link_to_each_other_are_read_once_each(tmp_path):
    """Twenty floors with two ways up each: a million ways to the top."""
    for floor in range(20):
        file(tmp_path / str(floor) / "text.txt", str(floor))
        for way in ("left", "right"):
            (tmp_path / str(floor) / way).symlink_to(f"../{(floor + 1) % 20}")
    expected = sorted(below(tmp_path, *(f"{floor}/text.txt" for floor in range(20))))
    assert named(tmp_path) == named(tmp_path / "**/**/**/**/**/**") == expected


def test_of_a_link_and_its_target_the_target_is_named(tmp_path):
    file(tmp_path / "text.txt")
    file(tmp_path / "z" / "deep.txt")
    for link, target in {"a.txt": "text.txt", "b.txt": "a.txt", "c": "z", "d": "c", "e.txt": "z/deep.txt"}.items():
        (tmp_path / link).symlink_to(target)
    expected = below(tmp_path, "text.txt", "z/deep.txt")
    assert named(tmp_path) == named(tmp_path / "**") == expected
    assert named(tmp_path / "[a-e].txt") == below(tmp_path, "a.txt", "e.txt"), "of links alone the first"
    (tmp_path / "way").symlink_to(tmp_path)
    assert named(tmp_path / "way") == below(tmp_path / "way", "text.txt", "z/deep.txt")


def test_a_link_that_has_an_ending_stands_for_a_target_that_has_none(tmp_path):
    """As in the Hugging Face cache: snapshots/NAME/text.jsonl leads to blobs/SHA."""
    file(tmp_path / "blobs" / "3f2a")
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "text.jsonl").symlink_to("../blobs/3f2a")
    assert named(tmp_path) == below(tmp_path, "snapshots/text.jsonl")


@pytest.mark.parametrize("target", ["gone.txt", "lost.txt"], ids=["nowhere", "itself"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, target):
    file(tmp_path / "text.txt")
    (tmp_path / "lost.txt").symlink_to(target)
    for name in ("", "*.txt", "lost.txt"):
        with pytest.raises(DataError, match=rf"lost.txt: a link to {target}, where nothing is; .*remove the link"):
            list_files(str(tmp_path / name))
    assert named(tmp_path / "t*.txt") == below(tmp_path, "text.txt")


def test_the_order_is_not_the_file_systems(tree, monkeypatch):
    for name in "zyx":  # three ways to one folder: the first in the order of names is taken
        (tree / "b" / name).symlink_to(tree.parent / "outside" / "b")
    expected, scandir = named(tree), os.scandir

    def shuffled(path, seed: int):
        with scandir(path) as entries:
            found = list(entries)
        return contextlib.nullcontext(random.Random(seed).sample(found, len(found)))

    for seed in range(3):
        monkeypatch.setattr(os, "scandir", functools.partial(shuffled, seed=seed))
        assert named(tree) == named(tree / "**") == expected


def test_pipes_are_no_text_and_folders_may_have_endings(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    file(tmp_path / "v1.2.txt" / "text")
    assert named(tmp_path) == below(tmp_path, "v1.2.txt/text")
    with pytest.raises(DataError, match=r"pipe.txt: neither a file nor a folder; write what comes out of it to a file"):
        list_files(str(tmp_path / "pipe.txt"))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """Path.rglob and glob leave it out without a word."""
    file(tmp_path / "text.txt")
    closed, scandir = file(tmp_path / "closed" / "text.txt").parent, os.scandir

    def refusing(path):
        if Path(path) == closed:  # root may read everything: the system is spoken for
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for name in ("", "**/*.txt", "*/*.txt"):
        with pytest.raises(DataError, match=r"closed: can't be read \(Permission denied\)"):
            list_files(str(tmp_path / name))


def test_a_home_folder_that_is_not_known_is_named():
    with pytest.raises(
        DataError, match=r"~nobody-of-this-name/a.txt: no home folder is known for ~nobody-of-this-name"
    ):
        list_files("~nobody-of-this-name/a.txt")
