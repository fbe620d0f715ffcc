"""The answers of `skald generate --prompts` as JSON lines, in the order of the requests: to a file that is gone on with
after a kill, or to standard output.

Each line begins with the digest of what it depends on, so a file says by itself which requests it answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from launch.inference.appended_file import AppendedFile, begins_as
from launch.inference.request import TextRequest
from launch.inference.text_engine import TextAnswer


def request_digest(request: TextRequest, writer: dict) -> str:
    """What a request's lines depend on, as 16 hexadecimal digits. `writer`: what is the same for all requests."""
    values = json.dumps(dataclasses.asdict(request) | writer, sort_keys=True)
    return hashlib.sha256(values.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def answer_lines(answer: TextAnswer, digest: str, logprobs: bool) -> list[str]:
    """The lines of an answer."""
    lines = [{"request": digest} | line for line in answer.to_json(logprobs)]
    return [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]


class AnswersFile(AppendedFile):
    """A file of answers, appended to. `done`: how many requests it answered when it was opened; `failed`: how many of
    these with an error.

    What stands behind their lines is cut off: a line torn by a kill, or some of the samples of a request. Raises
    DataError where a line answers another request, or while another process writes into the file.
    """

    remedy = "let it, or name another --out"

    def __init__(self, path: Path, requests: Sequence[TextRequest], digests: Sequence[str]):
        self.requests, self.digests, self.done, self.failed = requests, digests, 0, 0
        super().__init__(path)

    def read(self) -> int:
        """Counts the requests that are answered as a whole, and returns the bytes of their lines."""
        size, kept, own = 0, 0, []
        for number, line in enumerate(self.file, 1):
            digest = self.digests[self.done] if self.done < len(self.digests) else None
            if digest is None or not begins_as(line, f'{{"request": "{digest}"'.encode()):
                raise DataError(f"{self.path}:{number}: {self.mismatch(digest)}")
            if not line.endswith(b"\n"):
                break
            size += len(line)
            own.append(json.loads(line))
            if len(own) == self.requests[self.done].num_samples or "text" not in own[0]:
                self.failed += any("error" in value for value in own)
                self.done, kept, own = self.done + 1, size, []
        return kept

    def mismatch(self, digest: str | None) -> str:
        if digest is None:
            return "more answers than there are prompts; name another --out"
        return (
            f"this line is no answer to prompt {self.done + 1} as it is asked now (its text, the checkpoint, sampler, "
            "seed, limits or options were others); name another --out, or ask as before"
        )
