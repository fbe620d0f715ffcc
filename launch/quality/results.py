"""The content of quality.json: figures of all settings, the frontier, what is recommended, whether the gate passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launch.inference.checkpoint import LoadedCheckpoint
from launch.quality.frontier import pareto_front
from launch.quality.grid import HUMAN
from launch.quality.measures import DIVERSITY_AXIS, MEASURES, quality_axis
from launch.quality.plan import Plan
from launch.quality.scores import Metrics, Texts, token_arrays
from train.quality.diversity import LengthMatched
from train.quality.gate import GATED, HumanIntervals, gate, human_intervals

EXAMPLES = 3


def setting_entries(run: LoadedCheckpoint, plan: Plan, texts: Texts, metrics: Metrics, novelty: dict) -> list[dict]:
    """What is said of each setting, human first."""
    kinds = {HUMAN: HUMAN} | {setting.chain: setting.kind for setting in plan.settings}
    decode = run.tokenizer.decode
    return [
        {
            "setting": name,
            "kind": kinds[name],
            "texts": len(own),
            "tokens": sum(len(text.text.tokens) for text in own),
            "metrics": metrics[name],
            "novelty": novelty.get(name),
            "examples": [
                {"prompt": decode(list(text.place.prompt)), "text": text.text.text} for text in own[:EXAMPLES]
            ],
        }
        for name, own in texts.items()
    ]


def goodness(entries: Sequence[dict], measure: str) -> np.ndarray:
    """A measure of each setting, the higher the better; nan where it is not known. Diversity's axis grows to the less
    alike."""
    values = [entry["metrics"].get(measure, {}).get("value") for entry in entries]
    sign = 1 if MEASURES[measure].better == "higher" else -1
    return np.array([math.nan if value is None else sign * value for value in values])


def frontier(entries: Sequence[dict], axes: dict) -> list[int]:
    """The numbers of the settings on the Pareto front; human text is none of them."""
    quality, diversity = (goodness(entries, axes[name]) for name in ("quality", "diversity"))
    quality[[entry["setting"] == HUMAN for entry in entries]] = math.nan
    return pareto_front(quality, diversity)


def distances(metrics: Metrics, human: HumanIntervals) -> dict[str, float]:
    """How far each setting lies from human text (HumanIntervals.distance), of those that have measures of diversity."""
    found = {}
    for name, own in metrics.items():
        if all(measure in own for measure in GATED):
            values = {measure: own[measure]["value"] for measure in GATED}
            found[name] = human.distance({k: math.nan if v is None else v for k, v in values.items()})
    return found


def recommendation(metrics: Metrics, distance: dict[str, float], human: HumanIntervals) -> dict | None:
    """The setting nearest to human text, and why; None where none can be compared."""
    ranked = sorted((value, name) for name, value in distance.items() if name != HUMAN)
    if not ranked:
        return None
    value, name = ranked[0]
    deviations = human.deviations({m: nan_if_none(metrics[name][m]["value"]) for m in GATED})
    worst = max(deviations, key=lambda measure: deviations[measure])
    inside = sum(deviation <= 1 for deviation in deviations.values())
    why = (
        f"nearest to human text of {len(ranked)} settings: {inside} of {len(GATED)} measures of repetition and "
        f"diversity lie in the interval that human text spans, {MEASURES[worst].title} is the farthest "
        f"({shown(metrics[name][worst]['value'])}, human {shown(human.centres[worst])})"
    )
    if len(ranked) > 1:
        why += f"; next is {ranked[1][1] or 'the model as it is'} at distance {ranked[1][0]:.2f}"
    return {"setting": name, "distance": value, "why": why}


def nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value


def shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def compare_with_human(matched: LengthMatched, metrics: Metrics) -> dict:
    """`distances` of settings, and `recommended`. Raises ValueError where human texts are too few or too short."""
    human = human_intervals(matched.texts[HUMAN])
    distance = distances(metrics, human)
    return {"distances": distance, "recommended": recommendation(metrics, distance, human)}


def gate_of(texts: Texts, sampler: str) -> dict:
    """The gate of a sampler's texts. Raises ValueError where they, or the human ones, are too few or too short."""
    return gate(token_arrays(texts[sampler]), token_arrays(texts[HUMAN]))


def axes(has_judge: bool) -> dict[str, str]:
    return {"quality": quality_axis(has_judge), "diversity": DIVERSITY_AXIS}


def measures_table(entries: Sequence[dict]) -> dict[str, dict]:
    """The measures that any setting has, as quality.json lists them."""
    used = {name for entry in entries for name in entry["metrics"]}
    return {name: measure._asdict() for name, measure in MEASURES.items() if name in used}
