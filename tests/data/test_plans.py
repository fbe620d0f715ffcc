"""Arrays that are made of a store once: by which names they are found, and what is never read."""

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import plans
from data.config import Data, Source, Span
from data.config import Tokenizer as Config
from data.packing import PACKINGS
from data.pipeline import open_pipeline
from data.plans import SavedPlans

ROOT = Path(__file__).parents[2]
PLANNED = [name for name in PACKINGS if name != "pairs"]  # which makes no arrays, and is of pairs alone


def forbidden():
    raise AssertionError("they are made again")


def source_of(folder: Path) -> Source:
    lines = [json.dumps({"text": f"document {i} " + "x" * (i % 50)}) for i in range(60)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return Source(str(folder / "a.jsonl"))


MAKE = """
import sys
from pathlib import Path
import numpy as np
from data.plans import SavedPlans
for number in range(20):
    arrays = SavedPlans(Path(sys.argv[1])).arrays([number], lambda: [np.arange(number, 50_000), np.full(7, 3)], 2)
    print(*(int(array.sum()) for array in arrays))
"""


def test_what_one_process_saves_others_read(tmp_path):
    """Three at once make the same twenty plans."""
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    pipe = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    processes = [subprocess.Popen(command, **pipe) for _ in range(3)]
    expected = "".join(f"{sum(range(number, 50_000))} 21\n" for number in range(20))
    assert [process.communicate(timeout=100)[0] for process in processes] == [expected] * 3
    assert [file.suffix for file in tmp_path.iterdir()] == [".npy"] * 40
    first, second = SavedPlans(tmp_path).arrays([5], forbidden, 2)
    assert (first == np.arange(5, 50_000)).all() and second.tolist() == [3] * 7


def test_another_user_may_read_what_is_saved(tmp_path):
    """As the rest of a cache: with what the umask leaves."""
    before = os.umask(0o022)
    try:
        SavedPlans(tmp_path).array(["rows"], lambda: np.arange(3))
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_file_that_is_half_written_is_never_read(tmp_path):
    """Neither where its writer was killed under its own name, nor where the disk lost a part of it."""
    saved = SavedPlans(tmp_path)

    class Killed(BaseException):
        pass

    def killed(opened, array):
        opened.write(b"half")
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(np, "save", killed)
        saved.array(["rows"], lambda: np.arange(1000))
    assert list(tmp_path.iterdir()) == []
    saved.array(["rows"], lambda: np.arange(1000))
    (file,) = tmp_path.iterdir()
    for size in (file.stat().st_size - 8, 60, 4, 0):
        file.write_bytes(file.read_bytes()[:size])
        assert saved.array(["rows"], lambda: np.arange(1000)).tolist() == list(range(1000))
        assert saved.array(["rows"], forbidden).tolist() == list(range(1000)), "and it is mended"


def test_where_nothing_can_be_written_arrays_are_made_in_memory(tmp_path):
    """A file stands where the folder would be: root may write to any folder."""
    (tmp_path / "plans").write_text("a file")
    calls = []
    saved = SavedPlans(tmp_path / "plans")
    for _ in range(2):
        first, second = saved.arrays(["rows"], lambda: calls.append(1) or [np.arange(3), np.arange(4)], 2)
        assert (first.tolist(), second.tolist()) == ([0, 1, 2], [0, 1, 2, 3])
    assert len(calls) == 2


@pytest.mark.parametrize("packing", PLANNED)
def test_a_cache_without_its_plans_that_can_not_be_written_gives_the_same_rows(tmp_path, packing, monkeypatch):
    config = Data(source_of(tmp_path), Config("bytes"), 16, packing=packing)
    expected = open_pipeline(config, 8, 0, tmp_path / "cache").rows(3, 0, 8)
    for file in (tmp_path / "cache").rglob("*.npy"):
        if file.parent.name == "plans":
            file.unlink()

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("data.plans.save_whole", read_only)
    found = open_pipeline(config, 8, 0, tmp_path / "cache").rows(3, 0, 8)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


READ = """
import sys
from pathlib import Path
from data.config import Data, Source, Tokenizer
from data.pipeline import open_pipeline
config = Data(Source(sys.argv[1]), Tokenizer("bytes"), 16, "best_fit")
print(open_pipeline(config, 8, 0, Path(sys.argv[2])).rows(3, 0, 8).tokens.sum())
"""
MOUNT = 'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" && ! touch "$2/x" && exec "$0" -c "$3" "$1" "$2"'


def test_a_cache_that_is_mounted_read_only_is_read(tmp_path):
    """Without the plans of this packing, and with the source touched since: where it was seen can't be noted."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this process may not mount")
    source, cache = source_of(tmp_path), tmp_path / "cache"
    expected = open_pipeline(Data(source, Config("bytes"), 16, "best_fit"), 8, 0, tmp_path / "other").rows(3, 0, 8)
    open_pipeline(Data(source, Config("bytes"), 16), 8, 0, cache)
    os.utime(source.path, (1, 1))
    command = ["unshare", "--mount", "sh", "-c", MOUNT, sys.executable, source.path, str(cache), READ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.stdout.split() == [str(expected.tokens.sum())], process.stderr


NAMES = st.lists(st.one_of(st.none(), st.integers(-2, 3), st.floats(0, 1), st.sampled_from(["hash", "position", "1"])))


@settings(deadline=None)
@given(NAMES, NAMES)
def test_different_names_never_share_a_file(a, b):
    """1 and 1.0 are one name or two: what they name is the same."""
    first, second = (SavedPlans(Path("/plans")).within(*names).files(["x"], 2) for names in (a, b))
    assert len({*first}) == 2
    assert (json.dumps(a) == json.dumps(b)) == (first == second) == bool({*first} & {*second})


VARIANTS = [
    {},
    {"length": 17},
    {"split": "position"},
    {"train": Span(0.0, 0.8)},
    {"train": Span(0.0, 0.8), "split": "position"},
    {"drop_duplicates": True, "split": "position"},
]


def test_packings_lengths_seeds_and_splits_share_no_plan(tmp_path):
    """From one cache each gets the rows that it gets from a cache of its own, whichever came before."""
    source = source_of(tmp_path)
    lines = Path(source.path).read_text().splitlines()
    Path(source.path).write_text("\n".join([*lines, *lines[5:20]]))  # so that there are duplicates
    digests = set()
    for packing, seed, fields in itertools.product(PLANNED, (0, 1), VARIANTS):
        config = Data(source, Config("bytes"), **{"length": 16, "packing": packing, **fields})
        shared, alone = (open_pipeline(config, 40, seed, tmp_path / cache).rows(2, 0, 40) for cache in ("one", "other"))
        assert all((a == b).all() for a, b in zip(shared, alone, strict=True)), config
        shutil.rmtree(next((tmp_path / "other").rglob("plans")))
        digests.add(shared.tokens.tobytes())
    assert len(digests) == len(PLANNED) * 2 * len(VARIANTS)


def test_what_other_rules_made_is_not_read(tmp_path, monkeypatch):
    saved = SavedPlans(tmp_path)
    saved.array(["rows"], lambda: np.arange(3))
    monkeypatch.setattr(plans, "RULES", plans.RULES + 1)
    assert saved.array(["rows"], lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
