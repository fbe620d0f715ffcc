"""The texts on which two checkpoints are compared, each in its own tokens: `skald evaluate RUN OTHER`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.windows import ScoredText
from launch.inference.checkpoint import DescribedCheckpoint
from launch.inference.scoring import read_text, say, scoring_windows, texts_to_score
from train.fields import ConfigError


class PairedTexts:
    """The texts that two checkpoints score: the validation split of the first one, or the file `text`.

    `run_texts`, `other_texts`; `run_windows`, `other_windows`: window and stride. With `same_tokens`, where the
    tokenizers are the same, so are both. `numbers`: of each text the numbers of the documents that are compared, in
    the run's and in the other's, int64 [n] each.

    Everything is checked before anything is scored. Raises ConfigError, DataError.
    """

    def __init__(
        self,
        run: DescribedCheckpoint,
        other: DescribedCheckpoint,
        text: str | None = None,
        window: int | None = None,
        stride: int | None = None,
        field: str | None = None,
    ):
        self.run, self.other = run, other
        self.same_tokens = run.metadata["tokenizer"] == other.metadata["tokenizer"]
        if not self.same_tokens and (run.tokenizer.reads_ids or other.tokenizer.reads_ids):
            reason = "the tokenizers differ, and one of them reads token ids, which stand for no text"
            raise ConfigError(f"{run.name} and {other.name} can't be compared: {reason}")
        self.run_windows = scoring_windows(run, window, stride)
        self.other_windows = scoring_windows(other, *(self.run_windows if self.same_tokens else (window, stride)))
        self.run_texts = texts_to_score(run, text, field)
        if text is None and (line := data_warning(run, other)):
            say(line)
        if self.same_tokens or text is not None:
            own_field = run.config.data.parts[0].source.field if run.config and text is not None else None
            self.other_texts = self.run_texts if self.same_tokens else texts_to_score(other, text, field or own_field)
            self.numbers = [(np.arange(len(each.documents)),) * 2 for each in self.run_texts]
        else:
            rewritten = [rewrite(each, run, other) for each in self.run_texts]
            self.other_texts = [theirs for theirs, _ in rewritten]
            self.numbers = [(numbers, np.arange(len(numbers))) for _, numbers in rewritten]
        for mine, theirs, (_, numbers) in zip(self.run_texts, self.other_texts, self.numbers, strict=True):
            if len(theirs.documents) != len(numbers):
                raise DataError(
                    f"{mine.name}: {len(numbers)} documents for {run.name}, {len(theirs.documents)} for {other.name}: "
                    "they can't be paired"
                )


def data_warning(run: DescribedCheckpoint, other: DescribedCheckpoint) -> str | None:
    """A line where the other may have been trained on the run's validation text; None where it has the same split."""
    if run.config is None or other.config is None:
        return None

    def split_of(checkpoint: DescribedCheckpoint) -> tuple:
        data, fingerprints = checkpoint.config.data, checkpoint.metadata["data"]
        sources = [[each["source"] for each in fingerprints[kind]] for kind in ("training", "validation")]
        return sources, data.split, data.train, data.validation

    if split_of(run) == split_of(other):
        return None
    return (
        f"{other.name} was trained with other data, or another split of it: the validation text of {run.name} may be "
        "among what it was trained on; --text FILE scores a text that neither has seen"
    )


def rewrite(text: ScoredText, run: DescribedCheckpoint, other: DescribedCheckpoint) -> tuple[ScoredText, np.ndarray]:
    """A text of the run in the tokens of the other, and the numbers that its documents have in the run's, int64 [n].
    Documents without text are left out. Raises DataError where the other can't read them."""
    if text.documents.pieces is not None:
        raise DataError(
            f"{text.name}: prompts do not count in its loss, and the tokenizers of {run.name} and {other.name} differ: "
            "name a text for both (--text FILE)"
        )
    numbers = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for number, document in document_texts(text, run):
                out.write(json.dumps({"text": document}) + "\n")
                numbers.append(number)
        try:
            rewritten = read_text(other, str(file), "text")
        except DataError as error:
            raise DataError(
                f"{other.name} can't read {text.name}: {str(error).replace(str(file), 'document')}"
            ) from None
    return rewritten._replace(name=text.name), np.array(numbers)


def document_texts(text: ScoredText, run: DescribedCheckpoint) -> Iterator[tuple[int, str]]:
    """The number and the text of each document that has some."""
    for numbers in text.documents.chunks():
        starts, stops, ended = text.documents.bounds(numbers)
        for number, start, stop in zip(numbers.tolist(), starts.tolist(), (stops - ended).tolist(), strict=True):
            ids = text.documents.tokens[start:stop].tolist()
            if run.tokenizer.start_id is not None and ids[:1] == [run.tokenizer.start_id]:
                ids = ids[1:]
            if document := run.tokenizer.decode(ids):
                yield number, document
