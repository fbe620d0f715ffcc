"""The thread that writes for TensorBoard: its errors are the run's, and it ends with the run."""

import threading
import time

import pytest

from train.events import Ended, Measured, Started
from train.listeners.tensorboard import TensorBoard

pytestmark = pytest.mark.timeout(60)
STEP = Measured([{"step": 1, "seconds": 0.1, "train/loss": 2.0}])


def test_what_it_can_not_write_is_raised_at_the_next_event_and_once(tmp_path):
    (tmp_path / "file").touch()
    board = TensorBoard(tmp_path / "file")
    board(None, Started(0))
    with pytest.raises(OSError):
        while True:
            board(None, STEP)
            time.sleep(0.01)
    board.close()  # as the run does


def test_all_is_written_and_its_thread_gone_when_the_run_ends(tmp_path):
    board = TensorBoard(tmp_path / "board")
    for event in (Started(0), STEP, Ended(1, "done")):
        board(None, event)
    board.close()
    (file,) = (tmp_path / "board").iterdir()
    assert b"train/loss" in file.read_bytes()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tensorboard")]
