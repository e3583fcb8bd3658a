"""Whether a space can meet budgets at all: what its smallest, a median and its largest subnet cost,
and, where none meets them, which budget fails and by how much."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nas.config.config import Config
from nas.config.sections import MIN
from nas.hardware import nvml
from nas.measure.meter import CostMeter, excess, figure, out_of_reach, violations
from supernet.parameter_counts import count
from supernet.supernet import Supernet

MEDIAN_OF = 31  # sampled architectures whose middle one, by parameters, is called the median


def three_subnets(config: Config, supernet: Supernet) -> dict[str, Any]:
    """Architectures that show what a space spans."""
    return {
        "smallest": config.space.smallest(),
        "median": median_arch(config, supernet),
        "largest": config.space.largest(),
    }


def median_arch(config: Config, supernet: Supernet) -> Any:
    generator = Random(config.seed)
    archs = [config.space.sample(generator) for _ in range(MEDIAN_OF)]
    return sorted(archs, key=lambda arch: count(supernet, arch).params)[MEDIAN_OF // 2]


def print_feasibility(
    config: Config, meter: CostMeter, costs: Mapping[str, Mapping[str, float]], console: Console
) -> None:
    """What the subnets in `costs` cost, and which of the budgets can be met."""
    bounds = config.budget.bounds()
    console.print(
        f"{config.space.num_archs():.3g} architectures; {meter.card.describe()}; the reference's "
        f"milliseconds ranged over {meter.table.drift():.1%}",
        markup=False,
        soft_wrap=True,
    )
    device = torch.device(meter.card.device)
    if device.type == "cuda" and not meter.elsewhere and nvml.unavailable(device):
        reason = nvml.unavailable(device)
        console.print(f"nobody watches for a throttled clock: {reason}", markup=False)
    console.print(cost_table(costs))
    if bounds:
        console.print(budget_table(costs, bounds))
    else:
        console.print("no budget is set (budget.latency_of_largest=0.6, say)")


def cost_table(costs: Mapping[str, Mapping[str, float]]) -> Table:
    """One row an architecture."""
    table = Table(title="subnets on the target")
    table.add_column("subnet")
    columns = (
        "latency of largest", "95 % interval", "latency ms", "p90 ms", "memory MiB", "MFLOPs",
        "stored params", "factorised", "merged",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{cost['ratio']:.3f}",
            f"{cost['ratio_low']:.3f}-{cost['ratio_high']:.3f}",
            f"{cost['latency_ms']:.3f}",
            f"{cost['p90_ms']:.3f}",
            f"{cost['memory_mib']:.2f}",
            f"{cost['flops'] / 1e6:.2f}",
            f"{cost['params']:,}",
            f"{cost['stored_factorised']:,}",
            f"{cost['stored_merged']:,}",
        )
    return table


def budget_table(costs: Mapping[str, Mapping[str, float]], bounds: Mapping[str, float]) -> Table:
    """One row a bound, and whether some subnet can meet it: none lies beyond the two extremes."""
    table = Table(title="budgets")
    for column in ("budget", "bound", *costs, "can the space meet it"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for key, bound in bounds.items():
        marks = {
            name: "" if violations(cost, {key: bound})[key] <= 0 else " x"
            for name, cost in costs.items()
        }
        cells = [
            f"{figure(key, cost[key.removeprefix(MIN)])}{marks[name]}"
            for name, cost in costs.items()
        ]
        sign = ">=" if key.startswith(MIN) else "<="
        name = f"budget.{key}"
        table.add_row(name, f"{sign} {figure(key, bound)}", *cells, answer(costs, key, bound))
    table.caption = "x: misses the bound (a latency by the worse end of its interval)"
    return table


def answer(costs: Mapping[str, Mapping[str, float]], key: str, bound: float) -> str:
    """Whether a bound can be met; where not, by how much the nearest of all subnets misses it."""
    met = [violations(cost, {key: bound})[key] <= 0 for cost in costs.values()]
    if all(met):
        return "yes, by every subnet"
    if any(met):
        return "yes"
    missed = min(excess(cost, key, bound, worse=True) for cost in costs.values())
    if out_of_reach(costs["smallest"], costs["largest"], {key: bound}):
        return f"no, missed by {missed:.1%}"
    return f"unsure, missed by {missed:.1%}"


def nearest_miss(candidates: Sequence[Mapping[str, Any]], bounds: Mapping[str, float]) -> str:
    """Which budgets fail, and the candidate that comes closest to meeting all of them."""
    excesses = [violations(candidate, bounds) for candidate in candidates]
    nearest = min(range(len(candidates)), key=lambda index: max(excesses[index].values()))
    best = {key: min(excess[key] for excess in excesses) for key in bounds}
    broken = []
    for key, bound in bounds.items():
        if excesses[nearest][key] > 0:
            sign = -1 if key.startswith(MIN) else 1
            seen, near = ((1 + sign * e) * bound for e in (best[key], excesses[nearest][key]))
            broken.append(
                f"budget.{key}={figure(key, bound)}: best seen {figure(key, seen)}, "
                f"nearest subnet {figure(key, near)} (missed by {excesses[nearest][key]:.1%})"
            )
    notes = ["each can be met, but not all together"] if max(best.values()) <= 0 else []
    if any("latency" in key for key in bounds):
        notes.append("a latency is the worse end of its 95 % interval")
    arch = json.dumps(candidates[nearest]["arch"])
    return f"no subnet meets the budgets. {'; '.join(broken + notes)}. The nearest is {arch}"
