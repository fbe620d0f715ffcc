"""Processes that encode text: batches go in, encoded batches come out in the same order.

data/store/build.py uses them. Each is `python -m data.store.workers`, which ends when its standard input does: whatever
happens to the process that started it, none is left behind.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.errors import DataError
from data.store.segments import EncodedSegments, Segment, encode_segments
from data.tokenizers.tokenizer import Tokenizer, tokenizer_from_json

Batch = list[Segment]


class Worker:
    """One process with a tokenizer of its own."""

    def __init__(self, tokenizer: dict):
        root = Path(__file__).parents[2]
        environment = os.environ | {"PYTHONPATH": str(root), "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "data.store.workers"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.send(tokenizer)

    def send(self, message) -> None:
        pickle.dump(message, self.process.stdin, pickle.HIGHEST_PROTOCOL)
        self.process.stdin.flush()

    def encode(self, batch: Batch) -> EncodedSegments:
        """Raises DataError where the process has died."""
        try:
            self.send(batch)
            return pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self.process.wait()
            raise DataError(
                f"{batch[0].origin}: the process that tokenized it or what follows ended with status {status} "
                "(-9: the system was out of memory); start the same command again, what is done is kept"
            ) from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def encoders(tokenizer: Tokenizer, count: int) -> Iterator[Callable[[Iterable[Batch]], Iterator[EncodedSegments]]]:
    """A function that encodes batches in order, in `count` processes, or with count 1 in this one."""
    if count == 1:
        yield lambda batches: (encode_segments(tokenizer, batch) for batch in batches)
        return
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    workers = [Worker(tokenizer.to_json()) for _ in range(count)]
    for worker in workers:
        idle.put(worker)

    def encode(batch: Batch) -> EncodedSegments:
        worker = idle.get()
        try:
            return worker.encode(batch)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(count)
    try:
        yield lambda batches: ordered_map(threads, encode, batches, 2 * count)
    finally:
        for worker in workers:
            worker.close()
        threads.shutdown(cancel_futures=True)


def ordered_map(threads: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """The results of a function in order, of which at most `ahead` are waiting."""
    pending: collections.deque = collections.deque()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def main() -> None:
    """Encodes batches from standard input until that ends."""
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, pickle.UnpicklingError, KeyboardInterrupt, BrokenPipeError):
        tokenizer = tokenizer_from_json(pickle.load(reader))
        while True:
            pickle.dump(encode_segments(tokenizer, pickle.load(reader)), writer, pickle.HIGHEST_PROTOCOL)
            writer.flush()


if __name__ == "__main__":
    main()
