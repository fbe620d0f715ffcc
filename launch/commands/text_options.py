"""Options of `skald evaluate` that go with a text: a file, or the validation split."""

from __future__ import annotations

from argparse import Namespace

from launch.inference.checkpoint import DescribedCheckpoint
from train.fields import ConfigError

TEXT_OPTIONS = ("text", "field", "window", "stride", "examples")


def given_text_options(arguments: Namespace) -> list[str]:
    """Those that a person gave. Where there are some, a text is to be scored, and none is left out without an error."""
    return [name for name in TEXT_OPTIONS if getattr(arguments, name) is not None]


def check_text_options(arguments: Namespace, run: DescribedCheckpoint) -> None:
    """Raises ConfigError where some are given beside tasks, no text is named, and the checkpoint has none itself."""
    given = given_text_options(arguments) if arguments.tasks else []
    if given and arguments.text is None and run.config is None:
        raise ConfigError(
            f"--{given[0]}: it goes with a text, and {run.name} was imported and has no validation text; name one "
            f"(--text FILE), or leave --{given[0]} out"
        )
