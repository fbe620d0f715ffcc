"""`skald bench train|decode|data`: this machine's speed, beside its own limit and, with --against, beside a peer's."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace

from launch.bench import batching, decoding, feeding, history, invariance, training, waiting
from launch.bench.measure import load_warnings, measure
from launch.bench.report import engine_page, invariance_page, page
from launch.machine.load import LoadMeter
from launch.machine.processor import processor
from train.check import check_vocabulary_stated
from train.fields import ConfigError

PEERS_OF = {"train": ["hf", "torch"], "decode": ["hf"], "data": ["grain"]}
BENCHES = {"train": training, "decode": decoding, "data": feeding}


def main(arguments: Namespace) -> int:
    check_arguments(arguments)
    name = processor()
    if not arguments.json:
        print(f"processor: {name}", flush=True)
    if arguments.engine or arguments.invariant:
        result = measure_own_peer(batching if arguments.engine else invariance, arguments)
        text = engine_page(result) if arguments.engine else invariance_page(result)
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
    if arguments.engine and (what != "decode" or arguments.against or arguments.batch):
        raise ConfigError("--engine: it goes with decode alone, without --against and --batch; it brings its own peer")
    if arguments.invariant and (what != "decode" or arguments.against):
        raise ConfigError("--invariant: it goes with decode alone, without --against; it brings its own peer")
    if arguments.latency and (what != "decode" or arguments.batch or arguments.engine or arguments.invariant):
        raise ConfigError("--latency: it goes with decode alone, without --batch, --engine and --invariant")
    if arguments.batch and what == "train":
        raise ConfigError("--batch: it goes with decode and data; for train, --set batch_size=N")
    if arguments.length and what != "data":
        raise ConfigError("--length: it goes with data; rows of train are as long as data.length")
    if arguments.seconds and what == "decode":
        raise ConfigError("--seconds: it goes with train and data; a run of decode writes a number of tokens")


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
    """The figures of a bench that has both sides in one process."""
    meter = LoadMeter([os.getpid()])
    result = bench.measure(arguments.experiment, arguments)
    result["warnings"] = load_warnings(meter.load())
    print_warnings(result)
    return result


def print_warnings(result: dict) -> None:
    for text in result["warnings"]:
        print(f"skald: {text}", file=sys.stderr)
