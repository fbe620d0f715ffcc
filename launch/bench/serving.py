"""What the process of a peer does: it says who it is, then answers every line of standard input with a run's figures.

launch/bench/peer.py starts such processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(
    prepare: Callable[[], str],
    benches: dict[str, Callable],
    packages: str,
    ready: Callable[[Callable], None] = lambda run_once: None,
) -> None:
    """Serves the bench that the command line names, with its experiment and case.

    `prepare` returns the peer's name and raises ImportError where one of its `packages` is missing. `ready` is
    given the bench before its first run. A line that begins with "error: " stands for a peer that can't run.
    """
    what, experiment, case = sys.argv[-3], json.loads(sys.argv[-2]), json.loads(sys.argv[-1])
    try:
        name = prepare()
        run_once = benches[what](experiment, **case)
        ready(run_once)
    except ImportError as error:
        install = f"python3 -m pip --python .venv/bin/python install {packages}"  # .venv holds no pip
        print(f"error: {error.name} is not installed here; {install}", flush=True)
        return
    except (ValueError, KeyError) as error:
        print(f"error: {error}", flush=True)
        return
    print(name, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run_once()), flush=True)
