"""The rows of a batch on meshes of eight devices, and in two processes: the data's own, and no others are asked for."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data.config import Data, Mixture, Part, Source
from data.config import Tokenizer as Config
from data.pipeline import Pipeline, open_pipeline
from data.rows import Rows
from model.sharding import make_mesh, time_order
from train.feed import training_rows

ROOT = Path(__file__).parents[2]
BATCH, LENGTH, FIRST, COUNT = 16, 32, 7, 2
MESHES = {  # mesh axes -> readers of different rows
    "data": ({"data": 8}, 8),
    "tensor and context": ({"tensor": 2, "context": 4}, 1),
    "stage and data": ({"stage": 4, "data": 2}, 2),
    "replica, expert and context": ({"replica": 2, "expert": 2, "context": 2}, 4),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    folder, parts = tmp_path_factory.mktemp("feed"), []
    for letter in "ab":
        texts = [letter * (i * 7 % 60) for i in range(300)]
        (folder / f"{letter}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        parts.append(Part(Source(str(folder / f"{letter}.jsonl"))))
    return open_pipeline(Data(Mixture(tuple(parts)), Config("bytes"), LENGTH, "best_fit"), BATCH, 1, folder / "cache")


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("sizes, readers", MESHES.values(), ids=MESHES)
def test_on_any_mesh_a_batch_is_the_datas_and_each_row_is_asked_for_once(pipeline, sizes, readers, microbatches):
    asked: dict[int, list[int]] = {}
    sizes_asked = set()

    def spied(step: int, start: int, stop: int) -> Rows:
        asked.setdefault(step, []).extend(range(start, stop))
        sizes_asked.add(stop - start)
        return pipeline.rows(step, start, stop)

    with jax.set_mesh(make_mesh(sizes)):
        order_T = time_order(LENGTH)
        found = training_rows(spied, FIRST, COUNT, microbatches, BATCH, LENGTH)
    assert {step: sorted(rows) for step, rows in asked.items()} == {FIRST + i: [*range(BATCH)] for i in range(COUNT)}
    assert sizes_asked == {BATCH // microbatches // min(readers, BATCH // microbatches)}
    for step in range(COUNT):
        for array, expected in zip(found, pipeline.rows(FIRST + step, 0, BATCH), strict=True):
            assert (np.asarray(array[step]).reshape(BATCH, LENGTH) == expected[:, order_T]).all()


PROCESS = """
import json, sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from data.rows import Rows
from model.sharding import make_mesh
from train.feed import training_rows

def rows(step, start, stop):
    asked.append([step, start, stop])
    content = np.arange(start, stop)[:, None] * 100 + np.arange(8) + 10_000 * step
    return Rows(*(content for _ in Rows._fields))

found = []
for sizes in ({"data": 4}, {"data": 2, "tensor": 2}, {"tensor": 4}):
    asked = []
    with jax.set_mesh(make_mesh(sizes)):
        made = training_rows(rows, 3, 1, 1, 8, 8)
    held = np.unique(np.concatenate([shard.data.ravel() // 100 % 100 for shard in made.tokens.addressable_shards]))
    found.append([asked, held.tolist()])
print(json.dumps(found))
"""


@pytest.mark.timeout(120)
def test_each_process_asks_only_for_the_rows_of_its_own_devices():
    """Two processes of two devices: of a mesh that splits rows over all four, over the processes, and not at all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    start = lambda i: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", PROCESS, address, str(i)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    processes = [start(i) for i in range(2)]
    found = [json.loads(process.communicate(timeout=100)[0]) for process in processes]
    halves = [[0, 1, 2, 3], [4, 5, 6, 7]]
    for process, of_meshes in enumerate(found):
        first = 4 * process
        assert of_meshes[0] == [[[3, first, first + 2], [3, first + 2, first + 4]], halves[process]]
        assert of_meshes[1] == [[[3, first, first + 4]], halves[process]]
        assert of_meshes[2] == [[[3, 0, 8]], halves[0] + halves[1]]
