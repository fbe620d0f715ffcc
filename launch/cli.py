"""The console script `skald`: runs a command of launch/commands/, turns errors into one line each.

Started by users, launch/local.sh and cluster jobs. Nothing here imports JAX: its flags are set first.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import textwrap
import threading
import traceback
import warnings

from launch import experiments
from launch.arguments import BENCH_DEFAULTS, argument_parser
from launch.cluster import join
from launch.cluster.slots import detect
from launch.machine import setup

MODULES = {"import": "import_checkpoint", "export": "export_checkpoint"}  # `import` is a word of Python's
WITHOUT_JAX = ("prepare", "data", "tokenizer", "cache", "report")  # commands that compute nothing on devices
# Errors by class name, since their modules import JAX. Wrong arguments or config: exit status 2; failed work: 1.
WRONG_INPUT = ("ConfigError", "SamplerError", "PromptError", "PromptTooLong", "CheckpointError")
WRONG_INPUT += ("ShardingError", "KernelError", "TopologyError", "FieldError", "HuggingFaceError", "AdapterError")
EXPECTED = (
    *WRONG_INPUT,
    "DamagedCheckpoint",
    "QueueFull",
    "ExportError",
    "DataError",
    "RunError",
    "PeerError",
    "UnreadableProgram",
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = argument_parser().parse_args(argv)
    if (
        not arguments.debug
    ):  # Orbax and its threads also print the tracebacks of what they raise, and of reads cut short
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: None
        warnings.formatwarning = lambda message, *_, **__: f"skald: {message}\n"
    try:
        if "config" in arguments:
            name = arguments.config or BENCH_DEFAULTS[arguments.what]
            arguments.experiment = experiments.resolve(name, settings_of_config(arguments), arguments.seed)
        trains = arguments.command in ("train", "plan") or getattr(arguments, "what", "") in ("train", "data")
        slot = detect(os.environ) if arguments.command == "train" else None
        compile_only = bool(getattr(arguments, "topology", None))
        if arguments.command not in WITHOUT_JAX:
            setup.prepare(arguments.experiment if trains else None, slot, compile_only)  # only now is JAX imported
        module = MODULES.get(arguments.command, arguments.command)
        return importlib.import_module(f"launch.commands.{module}").main(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `skald generate … | head`
        return 0
    except KeyboardInterrupt:
        return report_end(130, "interrupted")
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        line = " ".join(str(error).split())
        name = next((base.__name__ for base in type(error).__mro__ if base.__name__ in EXPECTED), None)
        if name:
            return report_end(2 if name in WRONG_INPUT else 1, line)
        return report_end(1, explain(error, line) + ("" if arguments.debug else " (--debug shows where)"))


def settings_of_config(arguments: argparse.Namespace) -> list[str]:
    """The settings that are applied to the config: with --from those of the model belong to the other run's model."""
    if not getattr(arguments, "start_from", None):
        return arguments.set
    return [setting for setting in arguments.set if not setting.startswith("model.")]


def report_end(status: int, line: str) -> int:
    """Prints why the command ended, and returns its exit status. Other processes of the run end with the same."""
    join.fail(status, line)
    if status != 130:  # who pressed Ctrl-C knows
        print(f"skald: {line}", file=sys.stderr)
    return status


def explain(error: Exception, line: str) -> str:
    """One line for an error that no code of ours raises on purpose."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if "No space left on device" in line:
        return "no space left on the disk of the run folder; free some and start the same command again"
    return textwrap.shorten(f"{type(error).__name__}: {line}", 400)


if __name__ == "__main__":
    sys.exit(main())
