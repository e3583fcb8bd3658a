"""What subnets cost, and whether a space can meet the budgets at all: `nas measure`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from nas.config import Config
from nas.device import device_card
from nas.files import locked
from nas.measure import LatencyTable, Measurement, measure, measure_now
from nas.weights import make_supernet
from supernet.ledger import Counts, count
from supernet.supernet import Supernet

MEDIAN_OF = 101  # sampled architectures whose middle one, by parameters, is called the median


@dataclass(frozen=True)
class Costs:
    """Figures of one architecture, those of the largest subnet beside them."""

    counts: Counts
    largest_counts: Counts
    measurement: Measurement
    largest_measurement: Measurement

    def record(self) -> dict[str, float]:
        """Every figure by name, among them one for each key of the budget."""
        measurement = asdict(self.measurement)
        memory_mib = self.measurement.memory_mib
        return {
            **measurement,
            "latency_of_largest": self.measurement.ratio,
            **asdict(self.counts),
            "params": self.counts.params,
            "params_of_largest": self.counts.params / self.largest_counts.params,
            "memory_of_largest": memory_mib / self.largest_measurement.memory_mib,
        }


def violations(costs: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is exceeded, as a fraction of it; met when <= 0.

    A latency is judged by the upper end of its 95 % interval, so that noise alone meets no budget.
    """
    return {key: judged(costs, key, "ratio_high") / bound - 1 for key, bound in bounds.items()}


def out_of_reach(smallest: Mapping[str, float], bounds: Mapping[str, float]) -> list[str]:
    """The bounds that no subnet can meet, since nothing costs less than the smallest one.

    A latency counts by the lower end of its interval, so that noise alone ends no search.
    """
    return [key for key, bound in bounds.items() if judged(smallest, key, "ratio_low") > bound]


def judged(costs: Mapping[str, float], key: str, end: str) -> float:
    """The figure of a budget's key; of a latency, one end of its 95 % interval."""
    return costs[key] * (costs[end] / costs["ratio"] if key.startswith("latency") else 1.0)


def figure(key: str, value: float) -> str:
    """A figure of a budget's key as text: parameters in full, others to four digits."""
    return f"{value:,.0f}" if key == "params" else f"{value:.4g}"


class CostMeter:
    """Measures architectures of one supernet on the target; what was measured once is cached."""

    def __init__(self, config: Config, run: Path, supernet: Supernet) -> None:
        self.supernet = supernet
        self.owner = run / "latency.lock"
        data = config.data
        self.card = device_card(config.target, img_size=data.img_size, in_chans=data.in_chans)
        self.table = LatencyTable(run / "latency.jsonl", self.card)
        self.largest = config.space.largest()
        self.largest_counts = count(supernet, self.largest)
        self.reference = supernet.extract(self.largest)

    def costs(self, arch: Any) -> Costs:
        return Costs(
            counts=count(self.supernet, arch),
            largest_counts=self.largest_counts,
            measurement=self.measure(arch),
            largest_measurement=self.measure(self.largest),
        )

    def costs_afresh(self, arch: Any, model: nn.Module) -> Costs:
        """The costs of `arch`, whose plain model is measured now, whatever the cache holds."""
        with locked(self.owner, blocking=True):
            measurement = measure_now(model, self.reference, self.table)
        return replace(self.costs(arch), measurement=measurement)

    def measure(self, arch: Any) -> Measurement:
        record, extract = asdict(arch), self.supernet.extract
        known = self.table.get(record)
        if known is not None:
            return known
        # One process of a run at a time: two on a device would slow down each other.
        with locked(self.owner, blocking=True):
            return measure(record, lambda: extract(arch), self.reference, self.table)


def measure_space(config: Config, run: Path, console: Console) -> None:
    """Prints what the smallest, a median and the largest subnet cost, and the budgets they meet."""
    supernet = make_supernet(config)
    meter = CostMeter(config, run, supernet)
    archs = {
        "smallest": config.space.smallest(),
        "median": median_arch(config, supernet),
        "largest": config.space.largest(),
    }
    costs = {name: meter.costs(arch).record() for name, arch in archs.items()}
    console.print(
        f"{config.space.num_archs():.3g} architectures; {meter.card.describe()}",
        markup=False,
        soft_wrap=True,
    )
    console.print(cost_table(costs))
    bounds = config.budget.bounds()
    if bounds:
        console.print(budget_table(costs, bounds))
    else:
        console.print("no budget is set (budget.latency_of_largest=0.6, say)")


def median_arch(config: Config, supernet: Supernet) -> Any:
    generator = Random(config.seed)
    archs = [config.space.sample(generator) for _ in range(MEDIAN_OF)]
    return sorted(archs, key=lambda arch: count(supernet, arch).params)[MEDIAN_OF // 2]


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
    """One row a bound, and whether some subnet can meet it: none costs less than the smallest."""
    table = Table(title="budgets")
    for column in ("budget", "bound", *costs, "can the space meet it"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for key, bound in bounds.items():
        met = {name: violations(cost, {key: bound})[key] <= 0 for name, cost in costs.items()}
        marks = {name: "" if met[name] else " x" for name in costs}
        cells = [f"{figure(key, cost[key])}{marks[name]}" for name, cost in costs.items()]
        answer = answer_budget(met, bool(out_of_reach(costs["smallest"], {key: bound})))
        table.add_row(f"budget.{key}", figure(key, bound), *cells, answer)
    table.caption = "x: exceeds the bound (latency by the upper end of its interval)"
    return table


def answer_budget(met: Mapping[str, bool], beyond: bool) -> str:
    if met["largest"]:
        return "yes, even the largest"
    if any(met.values()):
        return "yes"
    return "no" if beyond else "unsure, raise target.passes"
