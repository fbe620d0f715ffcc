"""RUN/card.json: what a run cost and used, added up over its attempts (train/attempts.py). train/listeners/card.py
writes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from train import energy
from train.attempts import BEAT, FILE, VERSION, Attempt
from train.config import Experiment
from train.energy import Chips
from train.goodput import KINDS
from train.unknown import (
    GENERATED,
    unknown_energy,
    unknown_generation,
    unknown_money,
    unknown_past,
    unknown_utilization,
)

FLOPS_ABOUT = (
    "formula: 6ND (Hoffmann et al. 2022), N all parameters that a token meets; counted: products of the forward pass, "
    "causal attention among them, and of the backward pass; compiled: all products of the traced program, its loops as "
    "often as they run, with what is computed again and attention's whole square, without what a kernel computes; null "
    "for runs under a minute and for programs whose loops can't be counted. Evaluation and lost steps are in none"
)


@dataclass(frozen=True)
class Facts:
    """What of a run no attempt changes."""

    run: str
    version: str
    parameters: int
    active_parameters: int  # without the experts that a token is not sent to
    flops: float  # of a token, by our own count (train/objective.py)
    data: dict
    experiment: Experiment


def card(facts: Facts, attempts: list[Attempt], generation: dict | None = None) -> dict:
    """RUN/card.json as JSON: the figures of all attempts together, and each attempt's own."""
    e, last = facts.experiment, attempts[-1]
    tokens = e.batch_size * e.data.length
    wall = sum(attempt.wall for attempt in attempts)
    use = energy_of_all(attempts, e)
    utilized, paid = utilization(facts, attempts, tokens), money(attempts, e)
    return {
        "version": VERSION,
        "run": facts.run,
        "config": e.name,
        "program": facts.version,
        "steps": last.step,
        "tokens": last.step * tokens,
        "parameters": facts.parameters,
        "active_parameters": facts.active_parameters,
        "wall_seconds": wall,
        "device": device_hours(attempts),
        "flops": flops(facts, attempts, tokens),
        "model_flops_utilization": utilized,
        "goodput": goodput(attempts, wall),
        "lost_steps": sum(attempt.lost_steps for attempt in attempts),
        "energy": use._asdict(),
        "pue": e.energy.pue and asdict(e.energy.pue),
        "grid": e.energy.grid and grid_json(e),
        "co2e_grams": energy.emissions(use.joules, e.energy),
        GENERATED: generation and generation["joules_per_token"],
        "generation": generation,
        "money": paid,
        "data": facts.data,
        "unknown": [
            *unknown_past(attempts),
            *unknown_energy(attempts, e, use.method),
            *(unknown_utilization(attempts) if utilized is None else []),
            *(unknown_money(attempts, e) if paid is None else []),
            *unknown_generation(generation),
        ],
        "attempts": [asdict(attempt) for attempt in attempts],
    }


def energy_of_all(attempts: list[Attempt], e: Experiment) -> energy.EnergyUse:
    """The energy of all attempts; `about` says which of their seconds are in no counter."""
    use = energy.total([energy_of(attempt, e) for attempt in attempts])
    if use.joules is None or all(device["method"] != "measured" for device in use.by_device):
        return use
    before = sum(attempt.counted_from or 0.0 for attempt in attempts)
    about = f"{use.about}; the counters began {before:.1f} s after the attempts, which are in none"
    if older := [attempt.number for attempt in attempts if attempt.counted_from is None]:
        about += f", of attempts {older} nobody knows how long"
    return use._replace(about=about)


def energy_of(attempt: Attempt, e: Experiment) -> energy.EnergyUse:
    """The energy of an attempt. Counters that were last read more than a beat before its end do not tell of all."""
    device, figures = attempt.device, attempt.figures(e)
    chips = Chips(device["platform"], device["chips"], device["rated_watts"])
    complete = attempt.reading["complete"] and attempt.unread <= BEAT
    settings = replace(e.energy, **{name: figures[name] for name in ("chip_watts", "chip_idle_watts")})
    return energy.energy_use(attempt.reading | {"complete": complete}, chips, settings, attempt.wall, attempt.busy)


def device_hours(attempts: list[Attempt]) -> dict:
    """The devices of the newest attempt, and the hours of all: a machine may have been changed."""
    last, hours = attempts[-1].device, Counter()
    for attempt in attempts:
        hours[attempt.device["kind"]] += attempt.wall * attempt.device["count"] / 3600
    chip_hours = sum(attempt.wall * attempt.device["chips"] / 3600 for attempt in attempts)
    return {
        **{name: last[name] for name in ("kind", "count", "chips", "processor")},
        "hours": sum(hours.values()),
        "hours_by_kind": dict(hours),
        "chip_hours": chip_hours,
    }


def flops(facts: Facts, attempts: list[Attempt], tokens: int) -> dict:
    """FLOPs of all steps that were kept, of `tokens` each; by the program as the newest attempt that counted ran it."""
    steps = attempts[-1].step
    compiled = next((a.program_flops for a in reversed(attempts) if a.program_flops is not None), None)
    return {
        "formula": 6.0 * facts.active_parameters * steps * tokens,
        "counted": facts.flops * steps * tokens,
        "compiled": None if compiled is None else compiled * steps,
        "of_step": facts.flops * tokens,
        "compiled_of_step": compiled,
        "about": FLOPS_ABOUT,
    }


def utilization(facts: Facts, attempts: list[Attempt], tokens: int) -> float | None:
    """Model FLOPs utilization while steps were computed (PaLM, Chowdhery et al. 2022, appendix B); None where a peak is
    not known."""
    if not all(attempt.device["peak_flops"] for attempt in attempts):
        return None
    possible = sum(attempt.device["peak_flops"] * attempt.seconds["step"] for attempt in attempts)
    steps = attempts[-1].step - attempts[0].first_step
    return facts.flops * tokens * steps / possible if possible else None


def goodput(attempts: list[Attempt], wall: float) -> dict[str, float]:
    """Seconds by kind, `other` for what remains of the wall time, and `goodput`, the share of steps in it."""
    seconds = {kind: sum(attempt.seconds[kind] for attempt in attempts) for kind in KINDS}
    return {**seconds, "other": wall - sum(seconds.values()), "goodput": seconds["step"] / wall if wall else 0.0}


def grid_json(e: Experiment) -> dict:
    grid = e.energy.grid
    return {"g_per_kwh": [grid.low, grid.high], "year": grid.year, "source": grid.source}


def money(attempts: list[Attempt], e: Experiment) -> dict | None:
    """The price of all attempts, in the currency of the config's chip_hour; None where one of them states none.
    `chip_hour` is None where they state several."""
    prices = [attempt.figures(e)["chip_hour"] for attempt in attempts]
    if not all(prices):
        return None
    hours = [attempt.wall * attempt.device["chips"] / 3600 for attempt in attempts]
    amount = sum(own * price for own, price in zip(hours, prices, strict=True))
    return {"amount": amount, "chip_hour": prices[0] if len(set(prices)) == 1 else None}


def write_card(file: Path, content: dict) -> None:
    """Writes a card, whole or not at all."""
    temporary = file.with_name(f"{file.name}.written")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


def record_generation(folder: Path, generation: dict) -> None:
    """Puts the measured energy of generated tokens (train/energy.py, `per_token`) on a run's card, if it has one."""
    file = folder / FILE
    if file.is_file():
        content = json.loads(file.read_text())
        content |= {"generation": generation, GENERATED: generation["joules_per_token"]}
        others = [line for line in content["unknown"] if not line.startswith(GENERATED)]
        write_card(file, content | {"unknown": others + unknown_generation(generation)})


def recorded_generation(file: Path) -> dict | None:
    """What is on a card of generated tokens; None where there is no card, or none that was measured."""
    return json.loads(file.read_text())["generation"] if file.is_file() else None


def summary(content: dict, format_duration: Callable[[float], str]) -> str:
    """A line for a person."""
    seconds, wall = content["goodput"], content["wall_seconds"]
    shares = [(kind, seconds[kind] / wall) for kind in (*KINDS, "other") if kind != "step"]
    rest = ", ".join(f"{kind} {share:.0%}" for kind, share in shares if share >= 0.005)
    joules, emitted, paid = content["energy"]["joules"], content["co2e_grams"], content["money"]
    parts = [
        f"goodput {seconds['goodput']:.0%} of {format_duration(wall)}" + (f" ({rest})" if rest else ""),
        f"{content['flops']['counted']:.3g} FLOPs",
        "energy unmeasured" if joules is None else f"{joules / energy.KWH:.3g} kWh {content['energy']['method']}",
    ]
    parts += [f"{emitted[0]:.3g} to {emitted[1]:.3g} gCO2e"] if emitted else []
    if paid:
        price = paid["chip_hour"]
        parts.append(f"{paid['amount']:.3g} " + ("for chip-hours" if price is None else f"at {price:g} a chip-hour"))
    return ", ".join(parts)
