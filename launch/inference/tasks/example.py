"""One example of a task: what the model is asked, and what would be right. metrics.py judges it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """An example: `answer` as the template writes it behind `prompt`; `choices`, and `label`, the index of the right
    one, where the metric has any. `index`: of the record; `origin`: where it stands."""

    index: int
    origin: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    label: int | None = None

    @property
    def space(self) -> str:
        """The white space with which the answer begins, and so does every choice in its place."""
        return self.answer[: len(self.answer) - len(self.answer.lstrip())]
