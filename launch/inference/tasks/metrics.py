"""Metrics of evaluation tasks: what each asks of the model, what it says of an example and of all of them.

METRICS has them by the names that task files use. A metric is a class with the four members of `Metric`; its summary is
made of the kept results alone, so that results which were computed before count the same.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from launch.inference.likelihood import ContinuationScore
from launch.inference.tasks.example import Example
from launch.inference.tasks.statistics import accuracy, macro_f1
from train.run import RunError

LARGEST_EXPONENT = 700.0  # of e; what is beyond is no number that JSON can write


class Metric(Protocol):
    """A metric. `needs_choices`: its examples have choices; `generates`: it reads a text that the model writes.

    `libraries`: those that it needs, each with the extra of this package that installs it.
    """

    needs_choices: bool
    generates: bool
    libraries: dict[str, str]

    def continuations(self, example: Example) -> list[str]:
        """The texts whose likelihood behind the example's prompt is asked for."""
        ...

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        """What is kept of an example, as JSON values. `scores`: of its continuations, in their order; `output`: the
        model's text without space around it, None where none was asked for."""
        ...

    def summary(self, results: Sequence[dict]) -> dict:
        """The metrics of a task, from the results of all its examples, as JSON values by name."""
        ...


class MultipleChoice:
    """Which of an example's choices is likeliest, as lm-evaluation-harness decides it; the first of equal ones.

    `accuracy` is by the log-probability of a choice (its `acc`); `accuracy_per_character` by that divided by the
    choice's characters (its `acc_norm`), `accuracy_per_byte` by its bytes in UTF-8 (`acc_bytes`); the space in front of
    a choice counts in neither.
    """

    needs_choices, generates, libraries = True, False, {}
    by = ("", "_per_character", "_per_byte")

    def continuations(self, example: Example) -> list[str]:
        return [example.space + choice for choice in example.choices]

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        del output
        log_probabilities = np.array([-score.nats for score in scores])
        characters = np.array([len(choice) for choice in example.choices])
        sizes = np.array([len(choice.encode()) for choice in example.choices])
        rankings = (log_probabilities, log_probabilities / characters, log_probabilities / sizes)
        chosen = [int(np.argmax(ranking)) for ranking in rankings]
        fields = {"choices": list(example.choices), "answer": example.label, "scores": log_probabilities.tolist()}
        chosen_by = {f"chosen{name}": index for name, index in zip(self.by, chosen, strict=True)}
        return fields | chosen_by | {"correct": chosen[0] == example.label}

    def summary(self, results: Sequence[dict]) -> dict:
        found = {}
        for name in self.by:
            own = accuracy([result[f"chosen{name}"] == result["answer"] for result in results])
            found |= {key.replace("accuracy", f"accuracy{name}"): value for key, value in own.items()}
        return found


class Classification:
    """The label of an example, found in two ways: which label word is likeliest (`accuracy`, `macro_f1`), and what the
    model writes (`generation_…`), which must be a label word and nothing else.

    `generation_outside` is the share of written answers that are none of the labels; they are wrong, and no class of
    their own in macro-F1.
    """

    needs_choices, generates, libraries = True, True, {}

    def continuations(self, example: Example) -> list[str]:
        return [example.space + choice for choice in example.choices]

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        log_probabilities = [-score.nats for score in scores]
        answer, chosen = example.choices[example.label], example.choices[int(np.argmax(log_probabilities))]
        written = output if output in example.choices else None
        ways = {"chosen": chosen, "written": written, "correct": chosen == answer}
        return {"answer": answer, "scores": log_probabilities, "output": output, **ways}

    def summary(self, results: Sequence[dict]) -> dict:
        truth = [result["answer"] for result in results]
        found = {}
        for prefix, key in (("", "chosen"), ("generation_", "written")):
            own = [result[key] for result in results]
            right = accuracy([mine == true for mine, true in zip(own, truth, strict=True)])
            named = right | {"macro_f1": macro_f1(truth, own)}
            found |= {prefix + name: value for name, value in named.items()}
        return found | {"generation_outside": sum(result["written"] is None for result in results) / len(results)}


class Cloze:
    """The words that are held out at the end of a text, as in LAMBADA (Paperno et al. 2016): how likely they are, and
    whether every token of them is the likeliest one.

    `accuracy` and `perplexity`, of an example, are those of lm-evaluation-harness; `loss` is in nats a token.
    """

    needs_choices, generates, libraries = False, False, {}

    def continuations(self, example: Example) -> list[str]:
        return [example.answer]

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        del output
        (score,) = scores
        return {"answer": example.answer, "scores": [-score.nats], "tokens": score.tokens, "correct": score.is_greedy}

    def summary(self, results: Sequence[dict]) -> dict:
        nats = math.fsum(-result["scores"][0] for result in results)
        found = accuracy([result["correct"] for result in results])
        perplexity = math.exp(min(nats / len(results), LARGEST_EXPONENT))
        return found | {"perplexity": perplexity, "loss": nats / sum(result["tokens"] for result in results)}


class ExactMatch:
    """Whether the model writes the very answer; space around both does not count."""

    needs_choices, generates, libraries = False, True, {}

    def continuations(self, example: Example) -> list[str]:
        del example
        return []

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        del scores
        answer = example.answer.strip()
        return {"answer": answer, "output": output, "correct": output == answer}

    def summary(self, results: Sequence[dict]) -> dict:
        return accuracy([result["correct"] for result in results])


class Translation:
    """What the model writes against a reference translation: BLEU and chrF of all examples together, by sacrebleu (Post
    2018), whose signatures say how; of each example its sentence's own."""

    needs_choices, generates, libraries = False, True, {"sacrebleu": "evaluation"}

    def continuations(self, example: Example) -> list[str]:
        del example
        return []

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: str | None) -> dict:
        del scores
        reference = example.answer.strip()
        from sacrebleu.metrics import CHRF  # optional: only translations need it

        chrf = CHRF().sentence_score(output, [reference]).score
        return {"reference": reference, "output": output, "chrf": chrf}

    def summary(self, results: Sequence[dict]) -> dict:
        from sacrebleu.metrics import BLEU, CHRF

        outputs, references = ([result[key] for result in results] for key in ("output", "reference"))
        found = {}
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            found[name] = metric.corpus_score(outputs, [references]).score
            found[f"{name}_signature"] = str(metric.get_signature())
        return found


def check_libraries(name: str) -> None:
    """Raises RunError where a library that the metric of this name needs is not installed."""
    for library, extra in METRICS[name].libraries.items():
        if importlib.util.find_spec(library) is None:
            raise RunError(f"the metric {name} needs {library}, which is not installed: pip install 'skald[{extra}]'")


METRICS: dict[str, Metric] = {
    "classification": Classification(),
    "cloze": Cloze(),
    "exact_match": ExactMatch(),
    "multiple_choice": MultipleChoice(),
    "translation": Translation(),
}
