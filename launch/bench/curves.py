"""Makes a reference curve for configs/curves/ from the metrics.jsonl of finished runs of one config, one a seed.

    python -m launch.bench.curves runs/seed-0 runs/seed-1 runs/seed-2 >configs/curves/NAME.json

tests/launch/test_curves.py holds fresh runs against them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WINDOW = 20  # steps whose training losses are averaged to one number of the curve


def window_means(lines: list[dict]) -> list[float]:
    """Mean training loss of each whole window of steps, first to last."""
    losses = [line["train/loss"] for line in lines]
    return [round(sum(losses[i : i + WINDOW]) / WINDOW, 4) for i in range(0, len(losses) - WINDOW + 1, WINDOW)]


def curve(run: Path) -> dict:
    """One run: training losses by window, and every evaluation of the whole validation split, in nats a token."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = {str(line["step"]): round(line["eval/loss"], 4) for line in lines if "eval/loss" in line}
    return {"train/loss": window_means(lines), "eval/loss": evaluated}


def main(runs: list[Path]) -> None:
    experiments = [json.loads((run / "config.json").read_text())["experiment"] for run in runs]
    seeds = {str(e["seed"]): curve(run) for e, run in zip(experiments, runs, strict=True)}
    print(json.dumps({"config": experiments[0]["name"], "window": WINDOW, "seeds": seeds}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
