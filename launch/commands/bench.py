"""`skald bench train|decode|data|likelihood`: this machine's speed, beside its own limit and, with --against, a
peer's."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from launch.bench import batching, decoding, feeding, history, invariance, likelihood, quantization, training, waiting
from launch.bench.measure import load_warnings, measure
from launch.bench.report import engine_page, invariance_page, likelihood_page, page, quantization_page
from launch.machine.load import LoadMeter
from launch.machine.processor import processor
from train.check import check_vocabulary_stated
from train.fields import ConfigError

PEERS_OF = {"train": ["hf", "torch"], "decode": ["hf"], "data": ["grain"], "likelihood": ["harness"]}
BENCHES = {"train": training, "decode": decoding, "data": feeding}


class OwnPeer(NamedTuple):
    """A bench that brings its own other side, and what a person sees of its result."""

    bench: ModuleType
    page: Callable[[dict], str]


OWN_PEERS = {  # by option of decode
    "engine": OwnPeer(batching, engine_page),
    "invariant": OwnPeer(invariance, invariance_page),
    "quantize": OwnPeer(quantization, quantization_page),
}
LIKELIHOOD = OwnPeer(likelihood, likelihood_page)


def main(arguments: Namespace) -> int:
    check_arguments(arguments)
    name = processor()
    if not arguments.json:
        print(f"processor: {name}", flush=True)
    own = next((bench for option, bench in OWN_PEERS.items() if getattr(arguments, option)), None)
    own = LIKELIHOOD if arguments.what == "likelihood" else own
    if own:
        result = measure_own_peer(own.bench, arguments)
        text = own.page(result)
        print(json.dumps({**result, "processor": name}) if arguments.json else text)
        return 0
    results = []
    for case in BENCHES[arguments.what].cases(arguments):
        results.append(measure_case(case, arguments, name))
        if not arguments.json:
            print(page(results[-1], BENCHES[arguments.what].SPEED), flush=True)
    if arguments.json:
        print(json.dumps({**results[0], "processor": name, "cases": results}))
    return 0


def check_arguments(arguments: Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    what, peers = arguments.what, PEERS_OF[arguments.what]
    if arguments.against not in (None, *peers):
        raise ConfigError(f"--against {arguments.against}: the peer of {what} is {' or '.join(peers)}")
    if what != "data":
        check_vocabulary_stated(arguments.experiment)
    if what == "likelihood":
        likelihood.check_vocabulary(arguments.experiment)
    own = [f"--{option}" for option in OWN_PEERS if getattr(arguments, option)]
    if len(own) > 1:
        raise ConfigError(f"{' and '.join(own)}: one at a time")
    if own and (what != "decode" or arguments.against):
        raise ConfigError(f"{own[0]}: it goes with decode alone, without --against; it brings its own peer")
    if arguments.engine and arguments.batch:
        raise ConfigError("--engine: it brings its own requests; without --batch")
    if arguments.latency and (what != "decode" or arguments.batch or own):
        raise ConfigError(f"--latency: it goes with decode alone, without {', '.join(['--batch', *own])}")
    if arguments.batch and what in ("train", "likelihood"):
        raise ConfigError("--batch: it goes with decode and data; for train, --set batch_size=N")
    if arguments.items and what != "likelihood":
        raise ConfigError("--items: it goes with likelihood")
    if arguments.length and what != "data":
        raise ConfigError("--length: it goes with data; rows of train are as long as data.length")
    if arguments.seconds and what in ("decode", "likelihood"):
        raise ConfigError("--seconds: it goes with train and data; a run of decode or likelihood has a number of texts")


def measure_case(case: dict, arguments: Namespace, processor: str) -> dict:
    """One case's figures, with those that the same case gave the last time; keeps them for the next time."""
    bench = BENCHES[arguments.what]
    identity = history.identity(arguments.what, arguments.experiment, case, processor)
    result = measure(bench, arguments.experiment, case, arguments)
    if arguments.what == "data":
        result["data_wait"] = waiting.data_wait(arguments.experiment)
    figures = {name: result[name] for name in result["figures"]}
    result["last"] = history.last(identity)
    try:
        history.append(identity, figures, result["busy"])
    except OSError as error:
        result["warnings"].append(f"these figures are not kept: {history.history_file()}: {error.strerror}")
    print_warnings(result)
    return result


def measure_own_peer(bench, arguments: Namespace) -> dict:
    """The figures of a bench that brings its own other side."""
    meter = LoadMeter([os.getpid()])
    result = bench.measure(arguments.experiment, arguments)
    result["warnings"] = load_warnings(meter.load())
    print_warnings(result)
    return result


def print_warnings(result: dict) -> None:
    for text in result["warnings"]:
        print(f"skald: {text}", file=sys.stderr)
