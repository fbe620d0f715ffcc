"""A plan in words, and as the JSON of `skald plan --json`. launch/commands/plan.py prints it."""

from __future__ import annotations

from collections import Counter

from launch.machine.chips import GIB
from launch.plan import versions
from launch.plan.compiled import Plan
from launch.plan.search import format_settings

ASSUMPTIONS = """An estimate, from the compiler's schedule: fusions and copies take the cycles of its cost model, Pallas
kernels half of the peak, collectives the full rate of the links they can use; what runs beside computation is waited
for only where it is not there in time. Input, evaluation and checkpoints are not counted."""
CAUSES = {"links": "collectives", "network": "collectives between slices", "host": "the host's memory"}
CAUSES |= {"compute": "arithmetic", "memory": "memory", "prefetch": "memory"}


def figures(plan: Plan, where: str, found, better) -> dict:
    """The JSON of `skald plan`. Bytes, FLOPs and seconds are those of one device in one step."""
    time = plan.step_time
    result = {
        "config": plan.experiment.name,
        "topology": where,
        "devices": plan.devices,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "peak_bytes": plan.peak_bytes,
        "usable_bytes": plan.usable_bytes,
        "parameters": plan.parameters,
        "parameter_bytes": plan.parameter_bytes,
        "optimizer_bytes": plan.optimizer_bytes,
        "activation_bytes": plan.rest_bytes,
        "remat": plan.experiment.execution.remat,
        "microbatches": plan.experiment.microbatches,
        "model_flops": plan.model_flops,
        "compiled_flops": plan.flops,
        "recomputed_share": recomputed_share(plan),
        "compile_seconds": round(plan.compile_seconds, 2),
        **plan.compiler,
        "step_seconds": plan.seconds,
        "tokens_per_second_per_device": plan.tokens / plan.devices / plan.seconds if time else None,
        "model_flops_utilization": plan.utilization,
        "wire_bytes": dict(time.wire) if time else None,
        "collective_seconds": dict(time.busy) if time else None,
        "exposed_collective_seconds": sum(time.exposed.values()) if time else None,
        "seconds_by": dict(time.seconds) if time else None,
        "bound_by": bottleneck(plan) if time else None,
        "money_per_trillion_tokens": money(plan),
    }
    if found:
        result["search"] = [
            {"set": entry.settings, "fits": p.fits, "peak_bytes": p.peak_bytes, "step_seconds": p.seconds}
            for entry, p in found
        ]
    if better:
        result["fitting"] = {"set": better.settings, "bytes": better.bytes}
    return result


def page(plan: Plan, config: str, where: str) -> list[str]:
    """The lines that `skald plan` prints of a plan."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    left = plan.usable_bytes - plan.peak_bytes
    lines = [
        f"{config} on {where}: {plan.devices} devices, {mesh}, remat={plan.experiment.execution.remat}, "
        f"{plan.tokens:,} tokens a step",
        f"  {'fits' if plan.fits else 'DOES NOT FIT'}: {format_bytes(plan.peak_bytes)} of "
        f"{format_bytes(plan.usable_bytes)} a device, "
        f"{format_bytes(abs(left))} {'to spare' if plan.fits else 'too much'}",
        f"  memory: parameters {format_bytes(plan.parameter_bytes)}, optimizer {format_bytes(plan.optimizer_bytes)}, "
        f"activations and the rest {format_bytes(plan.rest_bytes)}",
    ]
    if plan.flops is not None:
        again = recomputed_share(plan)
        lines.append(
            f"  FLOPs a device: the model's {plan.model_flops / 1e12:.3g} T, compiled {plan.flops / 1e12:.3g} T"
            + (f" ({again:.0%} of them computed again)" if again else "")
        )
    if plan.step_time:
        lines += time_lines(plan)
    lines.append(f"  compiled in {plan.compile_seconds:.0f} s by {versions.format_versions(plan.compiler)}")
    return lines


def ranking(found) -> list[str]:
    """A table of the compiled candidates of a search, best first."""
    lines = ["   seconds     MFU      GiB  set"]
    for entry, plan in found:
        timed = f"{plan.seconds:10.4g} {plan.utilization:7.1%}" if plan.fits else f"{'too much':>18}"
        lines.append(f"{timed} {plan.peak_bytes / GIB:8.2f}  {format_settings(entry.settings)}")
    return lines


def time_lines(plan: Plan) -> list[str]:
    """The lines about time, of a plan that has one."""
    time = plan.step_time
    shares = ", ".join(f"{name} {seconds / plan.seconds:.0%}" for name, seconds in seconds_by_cause(plan).most_common())
    wire = ", ".join(f"{kind} {format_bytes(sent)}" for kind, sent in time.wire.most_common()) or "nothing"
    per_device = plan.tokens / plan.devices / plan.seconds
    lines = [
        f"  step: {plan.seconds:.4g} s estimated, {per_device:,.0f} tokens/s a device, MFU {plan.utilization:.1%}",
        f"  bound by {bottleneck(plan)}: {shares}",
        f"  on the wire: {wire} a device; collectives take {sum(time.busy.values()):.3g} s, of which "
        f"{sum(time.exposed.values()):.3g} s are waited for",
    ]
    if time.uncounted:
        lines.append(f"  {time.uncounted} loops whose turns are not known are taken as one turn")
    cost = money(plan)
    if cost is not None:
        lines.append(f"  money: {cost:,.0f} for 1T tokens at {plan.experiment.chip_hour:g} a chip-hour")
    return lines


def bottleneck(plan: Plan) -> str:
    """The cause of most of a step's time."""
    return seconds_by_cause(plan).most_common(1)[0][0]


def seconds_by_cause(plan: Plan) -> Counter:
    """Seconds of a step by cause, in words."""
    by: Counter = Counter()
    for key, value in plan.step_time.seconds.items():
        by[CAUSES[key]] += value
    return by


def format_bytes(count: float) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.2f} MiB"


def recomputed_share(plan: Plan) -> float | None:
    """The share of the compiled FLOPs that are not the model's own."""
    return max(0.0, 1 - plan.model_flops / plan.flops) if plan.flops else None


def money(plan: Plan) -> float | None:
    """The price of 1T tokens, in the currency of the config's chip_hour; None where that is not stated."""
    if not plan.step_time or not plan.experiment.chip_hour:
        return None
    return 1e12 / plan.tokens * plan.seconds / 3600 * plan.chips * plan.experiment.chip_hour
