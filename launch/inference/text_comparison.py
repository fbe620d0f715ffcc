"""Compares the scores of two checkpoints on the same texts: what `skald evaluate RUN OTHER` finds.

Under one tokenizer losses are compared, in nats a token; under two only bits a byte. The examples are documents; where
they are few and the tokens are the same, windows of tokens, which are drawn in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.splits import document_bytes
from data.tokenizers.tokenizer import Tokenizer
from data.windows import ScoredText
from launch.inference.comparison import CONFIDENCE, FEWEST, RESAMPLES, block_length, compare, evidence, ratio
from launch.inference.paired_texts import PairedTexts
from launch.inference.scoring import Evaluation, ScoredWindows, beginning

MOST_DIFFERENT = 3  # examples that are shown for each side


class PairedScores(NamedTuple):
    """The statistics of N examples under both checkpoints, and where these stand.

    `run`, `other`: float64 [N, 4]: nats, tokens, nats of text, bytes of text times log 2 (of windows unknown, nan).
    `place`: int64 [N, 4]: the number of the text, that of the document, start and stop of its tokens in the run's text.
    """

    run: np.ndarray
    other: np.ndarray
    place: np.ndarray


class TextComparison:
    """Two evaluations of the texts of a pair. `unit`: what an example is, `documents` or `windows`; `block`: neighbours
    that are drawn together, None: as comparison.compare chooses. `measure`: in what examples are compared."""

    def __init__(self, pair: PairedTexts, run: Evaluation, other: Evaluation):
        self.pair, self.run, self.other = pair, run, other
        self.measure = "loss" if pair.same_tokens else "bits_per_byte"
        self.unit, self.block, self.scores = "documents", None, document_scores(pair, run, other)
        if pair.same_tokens and len(self.scores.place) < FEWEST:
            self.unit, self.scores = "windows", window_scores(run, other)
            self.block = block_length(len(self.scores.place))
        columns = slice(0, 2) if pair.same_tokens else slice(2, 4)
        sides = [self.scores.run[:, columns], self.scores.other[:, columns]]
        self.values = [ratio(side) for side in sides]
        strength = evidence(sides[0][:, 0], sides[1][:, 0], self.scores.run[:, 1])
        self.order = np.argsort(-np.abs(strength), kind="stable")

    def to_json(self) -> dict:
        """`loss`, where the tokenizers are the same, and `bits_per_byte`: as comparison.compare has them. `examples`:
        what is drawn, how many there are, how many at a time. `better`: the share of examples on which each has the
        lower loss. `most_different`: those that speak most for each. `tokens` to `stride`: of the other's scores."""
        metrics, (mine, theirs) = self.other.metrics, self.values
        found = {"other": self.pair.other.name, "step": metrics["step"]}
        found |= {name: metrics[name] for name in ("tokens", "bytes", "window", "stride")}
        if self.pair.same_tokens:
            found["loss"] = compare(self.scores.run[:, :2], self.scores.other[:, :2], ratio, self.block)
        found["bits_per_byte"] = self.bits_per_byte()
        found["examples"] = {"unit": self.unit, "count": len(mine), "block": self.block or 1}
        found["better"] = {"run": float(np.mean(mine < theirs)), "other": float(np.mean(theirs < mine))}
        signs = np.sign(theirs - mine)[self.order]
        speaking = {side: self.order[signs == sign][:MOST_DIFFERENT] for side, sign in (("run", 1), ("other", -1))}
        found["most_different"] = {side: list(self.lines(numbers)) for side, numbers in speaking.items()}
        return found | {"confidence": CONFIDENCE, "resamples": RESAMPLES}

    def bits_per_byte(self) -> dict:
        if self.unit == "documents":
            return compare(self.scores.run[:, 2:], self.scores.other[:, 2:])
        run, other = (each.metrics["bits_per_byte"] for each in (self.run, self.other))
        return {"run": run, "other": other, "difference": other - run, "interval": None}

    def examples(self) -> Iterator[dict]:
        """Every example, those first where the two differ most."""
        return self.lines(self.order)

    def lines(self, numbers: np.ndarray) -> Iterator[dict]:
        """What is said of examples: where they stand, what each checkpoint makes of them, and their beginning."""
        for number in numbers.tolist():
            text_number, document, start, stop = self.scores.place[number].tolist()
            text = self.run.texts[text_number]
            place = {"source": text.name, "document": document}
            if self.unit == "windows":
                place["token"] = start - int(text.documents.bounds(np.array([document])).starts[0])
            mine, theirs = (float(values[number]) for values in self.values)
            scores = {self.measure: mine, f"other_{self.measure}": theirs, "tokens": int(self.scores.run[number, 1])}
            yield {**place, **scores, "text": beginning(self.pair.run.tokenizer, text, start, stop)}


def document_scores(pair: PairedTexts, run: Evaluation, other: Evaluation) -> PairedScores:
    """The statistics of all documents that both can score."""
    sides, places = ([], []), []
    for index, numbers in enumerate(pair.numbers):
        for side, evaluation, tokenizer, own in zip(
            sides, (run, other), (pair.run.tokenizer, pair.other.tokenizer), numbers, strict=True
        ):
            side.append(document_statistics(evaluation.texts[index], evaluation.scored[index], own, tokenizer))
        starts, stops, _ = run.texts[index].documents.bounds(numbers[0])
        places.append(np.stack([np.full(len(starts), index), numbers[0], starts, stops], axis=1))
    run_N4, other_N4, place_N4 = (np.concatenate(parts) for parts in (*sides, places))
    needed = slice(1, 2) if pair.same_tokens else slice(1, 4, 2)  # tokens, and bytes where those are compared
    scored = ((run_N4[:, needed] > 0) & (other_N4[:, needed] > 0)).all(1)
    return PairedScores(run_N4[scored], other_N4[scored], place_N4[scored])


def document_statistics(
    text: ScoredText, scored: ScoredWindows, numbers: np.ndarray, tokenizer: Tokenizer
) -> np.ndarray:
    """The statistics of PairedScores of the documents of these numbers."""
    count = len(text.documents)
    sums = [scored.by_document(x, count)[numbers] for x in (scored.nats, scored.tokens, scored.text_nats)]
    return np.stack([*sums, math.log(2) * document_bytes(text.documents, numbers, tokenizer)], axis=1)


def window_scores(run: Evaluation, other: Evaluation) -> PairedScores:
    """The statistics of all windows: both evaluations have the same."""
    sides, places = ([], []), []
    for index, pair in enumerate(zip(run.scored, other.scored, strict=True)):
        for side, scored in zip(sides, pair, strict=True):
            unknown = np.full(len(scored.nats), math.nan)
            side.append(np.stack([scored.nats, scored.tokens, scored.text_nats, unknown], axis=1))
        mine = pair[0]
        places.append(np.stack([np.full(len(mine.nats), index), mine.document, mine.start, mine.stop], axis=1))
    run_N4, other_N4, place_N4 = (np.concatenate(parts) for parts in (*sides, places))
    scored = run_N4[:, 1] > 0
    return PairedScores(run_N4[scored], other_N4[scored], place_N4[scored])
