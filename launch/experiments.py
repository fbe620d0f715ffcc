"""From the name of a CONFIG to an Experiment: `name`, `name:variant` or a Python file; --set and --seed applied.

launch/cli.py calls `resolve` for every command that takes a CONFIG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import configs
from train import fields
from train.config import Experiment
from train.fields import ConfigError

DEFAULT = "default"


def names() -> list[str]:
    """The names of the modules in configs/."""
    return sorted(p.stem for p in Path(configs.__path__[0]).glob("*.py") if p.stem != "__init__")


def variants(module) -> dict[str, Callable[[], Experiment]]:
    """The functions of a config module that return an Experiment, or its VARIANTS, by name. `default` needs no name."""
    if hasattr(module, "VARIANTS"):
        return module.VARIANTS
    own = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    returned = {n: f.__annotations__.get("return") for n, f in own.items() if not inspect.signature(f).parameters}
    return {n: own[n] for n, kind in returned.items() if kind in ("Experiment", Experiment)}


def make_experiment(name: str) -> Experiment:
    """The experiment of a config's name. Raises ConfigError with the names there are, or with what a config raised."""
    module_name, _, variant = name.partition(":")
    module = import_file(Path(module_name)) if module_name.endswith(".py") else import_config(module_name)
    by_variant = variants(module)
    if not by_variant:
        raise ConfigError(
            f"config {module_name!r}: no function of the file is annotated `-> Experiment`; one makes a config"
        )
    if not variant and DEFAULT not in by_variant:
        raise ConfigError(
            f"config {module_name!r} needs a variant: {', '.join(f'{module_name}:{v}' for v in by_variant)}"
        )
    if (variant or DEFAULT) not in by_variant:
        close = fields.did_you_mean(variant, by_variant)
        raise ConfigError(
            f"config {module_name!r} has no variant {variant!r}{close}; there are {', '.join(by_variant)}"
        )
    with config_errors(module.__file__):
        experiment = by_variant[variant or DEFAULT]()
    if not isinstance(experiment, Experiment):
        returned = type(experiment).__name__
        raise ConfigError(f"config {module_name!r}: {variant or DEFAULT}() returned {returned}, not an Experiment")
    return experiment


@contextlib.contextmanager
def config_errors(file: str) -> Iterator[None]:
    """Turns an error in the code of a config file into a ConfigError that names the line of the file."""
    try:
        yield
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines.append(error.lineno)
        where = f"{file}:{lines[-1]}" if lines else file
        raise ConfigError(f"{where}: {type(error).__name__}: {getattr(error, 'msg', error)}") from error


def import_config(name: str):
    if name not in names():
        close = fields.did_you_mean(name, names())
        raise ConfigError(f"no config {name!r}{close}; there are {', '.join(names())}, or a Python file's path")
    return importlib.import_module(f"configs.{name}")


def import_file(path: Path):
    """Imports a config file of the user's own."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    with config_errors(module.__file__):
        specification.loader.exec_module(module)
    return module


def resolve(name: str, settings: Sequence[str] = (), seed: int | None = None) -> Experiment:
    """The experiment of a config's name with every PATH=VALUE of `settings` applied in order. Raises ConfigError."""
    experiment = apply_settings(make_experiment(name), settings)
    return experiment if seed is None else dataclasses.replace(experiment, seed=seed)


def apply_settings(experiment: Experiment, settings: Sequence[str]) -> Experiment:
    """The experiment with every PATH=VALUE applied, in order. Raises ConfigError."""
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write PATH=VALUE")
        experiment = fields.replace_at(experiment, path, value)
    return experiment


def default_folder(name: str) -> Path:
    """The default run folder of a config: runs/NAME-VARIANT."""
    module_name, _, variant = name.partition(":")
    return Path("runs") / "-".join(part for part in (Path(module_name).stem, variant) if part)
