"""A CONFIG's name to an Experiment: `name`, `name:variant` or a Python file, with --set and --seed applied."""

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
    """The modules of configs/."""
    return sorted(p.stem for p in Path(configs.__path__[0]).glob("*.py") if p.stem != "__init__")


def variants(module) -> dict[str, Callable[[], Experiment]]:
    """A config module's functions that return an Experiment, or its VARIANTS; `default` is the one without a name."""
    if hasattr(module, "VARIANTS"):
        return module.VARIANTS
    own = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    returned = {n: f.__annotations__.get("return") for n, f in own.items() if not inspect.signature(f).parameters}
    return {n: own[n] for n, kind in returned.items() if kind in ("Experiment", Experiment)}


def make_experiment(name: str) -> Experiment:
    """Raises ConfigError listing what there is, or saying what a config's own code raised."""
    place, _, variant = name.partition(":")
    module = import_file(Path(place)) if place.endswith(".py") else import_config(place)
    found = variants(module)
    if not found:
        raise ConfigError(f"config {place!r}: no function of the file is annotated `-> Experiment`; one makes a config")
    if not variant and DEFAULT not in found:
        raise ConfigError(f"config {place!r} needs a variant: {', '.join(f'{place}:{v}' for v in found)}")
    if (variant or DEFAULT) not in found:
        close = fields.did_you_mean(variant, found)
        raise ConfigError(f"config {place!r} has no variant {variant!r}{close}; there are {', '.join(found)}")
    with config_errors(module.__file__):
        experiment = found[variant or DEFAULT]()
    if not isinstance(experiment, Experiment):
        returned = type(experiment).__name__
        raise ConfigError(f"config {place!r}: {variant or DEFAULT}() returned {returned}, not an Experiment")
    return experiment


@contextlib.contextmanager
def config_errors(file: str) -> Iterator[None]:
    """Whatever a config file's code raises becomes a ConfigError that names the file's last line on the way."""
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
    """A user's own config file: their code, run because they name it."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    with config_errors(module.__file__):
        specification.loader.exec_module(module)
    return module


def resolve(name: str, settings: Sequence[str] = (), seed: int | None = None) -> Experiment:
    """The experiment with every PATH=VALUE of `settings` applied in order."""
    experiment = make_experiment(name)
    for setting in settings:
        path, given, value = setting.partition("=")
        if not given:
            raise ConfigError(f"--set {setting}: write PATH=VALUE")
        experiment = fields.replace_at(experiment, path, value)
    return experiment if seed is None else dataclasses.replace(experiment, seed=seed)


def default_folder(name: str) -> Path:
    """runs/NAME-VARIANT."""
    place, _, variant = name.partition(":")
    return Path("runs") / "-".join(part for part in (Path(place).stem, variant) if part)
