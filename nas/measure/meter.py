"""What subnets of a supernet cost on the target, and how far they are from budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.checks import check
from nas.config.config import Config
from nas.config.sections import MIN, TargetConfig
from nas.files import locked
from nas.hardware.device import DeviceCard, device_card, device_lock
from nas.measure.bench import Bench, Constants
from nas.measure.latency_table import LatencyTable, Measurement, cards_in
from supernet.parameter_counts import Counts, count
from supernet.supernet import Supernet

SLACK = 0.1  # by which some subnet may be faster than the smallest, or slower than the largest
MOST_SESSIONS = 4  # of a subnet whose interval holds a bound


@dataclass(frozen=True)
class Costs:
    """Figures of one architecture, those of the largest subnet beside them."""

    counts: Counts
    largest_counts: Counts
    measurement: Measurement
    largest_measurement: Measurement

    def record(self) -> dict[str, Any]:
        """Every figure by name, among them one for each key of the budget."""
        return {
            **measured_record(self.measurement, self.largest_measurement),
            **asdict(self.counts),
            "params": self.counts.params,
            "params_of_largest": self.counts.params / self.largest_counts.params,
        }


def measured_record(own: Measurement, largest: Measurement) -> dict[str, Any]:
    return {
        **asdict(own),
        "latency_of_largest": own.ratio,
        "memory_of_largest": own.memory_mib / largest.memory_mib,
    }


def violations(costs: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is missed, as a fraction of it; met when <= 0.

    A latency is judged by the worse end of its 95 % interval, so that noise alone meets no budget.
    """
    return {key: excess(costs, key, bound, worse=True) for key, bound in bounds.items()}


def out_of_reach(
    smallest: Mapping[str, float], largest: Mapping[str, float], bounds: Mapping[str, float]
) -> list[str]:
    """The bounds that no subnet can meet: none costs less than the smallest, or more than largest.

    A latency counts by the better end of its interval, so that noise alone ends no search, and
    with some slack: on some devices a subnet is faster than a smaller one.
    """
    return [
        key
        for key, bound in bounds.items()
        if excess(largest if key.startswith(MIN) else smallest, key, bound, worse=False)
        > (SLACK if "latency" in key else 0)
    ]


def straddled(costs: Mapping[str, float], bounds: Mapping[str, float]) -> list[str]:
    """The bounds that lie within the 95 % interval of the latency: noise decides them."""
    return [
        key
        for key, bound in bounds.items()
        if excess(costs, key, bound, worse=True) > 0 >= excess(costs, key, bound, worse=False)
    ]


def excess(costs: Mapping[str, float], key: str, bound: float, *, worse: bool) -> float:
    """How far one bound is missed, by the worse or the better end of a latency's interval."""
    lower, figure_key = key.startswith(MIN), key.removeprefix(MIN)
    value = costs[figure_key]
    if figure_key.startswith("latency"):
        end = "ratio_high" if worse is not lower else "ratio_low"
        value *= costs[end] / costs["ratio"]
    return (1 - value / bound) if lower else (value / bound - 1)


def is_met(costs: Mapping[str, float], key: str, bound: float) -> bool:
    """Whether the figure itself, of a latency the median, keeps a bound."""
    value = costs[key.removeprefix(MIN)]
    return value >= bound if key.startswith(MIN) else value <= bound


def figure(key: str, value: float) -> str:
    """A figure of a budget's key as text: parameters in full, others to four digits."""
    return f"{value:,.0f}" if key.removeprefix(MIN) == "params" else f"{value:.4g}"


class CostMeter:
    """Measures architectures of one supernet on the target; what was measured once is cached.

    Where `target.table` names measurements of another machine, these are all that is known.
    """

    def __init__(self, config: Config, run: Path, supernet: Supernet) -> None:
        self.supernet = supernet
        self.largest = config.space.largest()
        self._largest_record = asdict(self.largest)
        self.largest_counts = count(supernet, self.largest)
        self.effort = config.target.effort()
        self.elsewhere = bool(config.target.table)
        if self.elsewhere:
            path = Path(config.target.table)
            self.card = card_of_table(path, config.target, in_chans=config.data.in_chans)
        else:
            path = run / "latency.jsonl"
            self.card = device_card(config.target, in_chans=config.data.in_chans)
        self.table = LatencyTable(path, self.card, reference_record(supernet, self.largest))
        self._bench: Bench | None = None
        self._closed_s = 0.0
        self._counts = {self.largest: self.largest_counts}

    @cached_property
    def owner(self) -> Path:
        """Whoever holds this lock has the device to itself: passes beside it slow each other."""
        return device_lock(torch.device(self.card.device))

    def close(self) -> None:
        if self._bench is not None:
            self._closed_s += self._bench.passes_s
            self._bench.close()
            self._bench = None

    @property
    def passes_s(self) -> float:
        """Seconds that this process has spent in timed passes and those for memory."""
        return self._closed_s + (self._bench.passes_s if self._bench else 0.0)

    def count(self, arch: Any) -> Counts:
        if arch not in self._counts:
            self._counts[arch] = count(self.supernet, arch)
        return self._counts[arch]

    def refreshed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """An architecture's record with what the table knows of it by now."""
        own, largest = self.table.get(record["arch"]), self.table.get(self._largest_record)
        if own is None or largest is None:  # somebody has removed the table
            return dict(record)
        return {**record, **measured_record(own, largest)}

    def with_session(self, record: Mapping[str, Any], session: Measurement) -> dict[str, Any]:
        """An architecture's record with the figures of one session alone."""
        return {**record, **measured_record(session, self.measure(self.largest))}

    def costs(self, arch: Any, bounds: Mapping[str, float] | None = None) -> Costs:
        """Measures what is not known, and more where the latency's interval holds a bound."""
        costs = self._costs(arch, self.measure(arch))
        while not self.elsewhere and straddled(costs.record(), bounds or {}):
            if costs.measurement.num_sessions >= MOST_SESSIONS:
                break
            costs = self._costs(arch, self._measure_more(arch))
        return costs

    def side_by_side(self, archs: Sequence[Any]) -> list[Measurement]:
        """Each measured afresh in one session in which they take turns; the table learns it too."""
        models = [self.supernet.extract(arch) for arch in archs]
        constants = [self._constants(arch) for arch in archs]
        with locked(self.owner, blocking=True):
            sessions = self._ready_bench().sessions(models, constants=constants)
        for arch, session in zip(archs, sessions, strict=True):
            self.table.put(asdict(arch), session)
        return [self.table.alone(session) for session in sessions]

    def costs_afresh(self, arch: Any, model: nn.Module) -> Costs:
        """The costs of `arch`, whose plain model is measured now, whatever the table holds."""
        if self.elsewhere:
            return self._costs(arch, self.measure(arch))
        costs = self._costs(arch, self.measure(arch))
        with locked(self.owner, blocking=True):
            (session,) = self._ready_bench().sessions([model], details=True)
        return replace(costs, measurement=self.table.alone(session))

    def across_runtimes(self, model: nn.Module, runtimes: Sequence[str]) -> list[dict[str, Any]]:
        """A record of each runtime: its latency on the table's scale, or why there is none."""
        if self.elsewhere:
            return []
        with locked(self.owner, blocking=True):
            found = self._ready_bench().across_runtimes(model, runtimes)
        scale = self.table.reference_ms
        return [
            {"runtime": name, "unavailable": latency}
            if isinstance(latency, str)
            else {"runtime": name, "latency_ms": latency.ratio * scale, **asdict(latency)}
            for name, latency in found.items()
        ]

    def _costs(self, arch: Any, measurement: Measurement) -> Costs:
        return Costs(
            counts=self.count(arch),
            largest_counts=self.largest_counts,
            measurement=measurement,
            largest_measurement=self.measure(self.largest),
        )

    def measure(self, arch: Any) -> Measurement:
        """What the table knows, else what is measured now and put into it."""
        known = self.table.get(asdict(arch))
        if known is not None:
            return known
        rule = f"a table that holds {asdict(arch)}; nas measure archs=... measures it there"
        check("target.table", not self.elsewhere, rule, str(self.table.path))
        with locked(self.owner, blocking=True):
            # Another process may have measured it while this one waited.
            return self.table.get(asdict(arch)) or self._put_session(arch)

    def _measure_more(self, arch: Any) -> Measurement:
        with locked(self.owner, blocking=True):
            return self._put_session(arch)

    def _put_session(self, arch: Any) -> Measurement:
        (session,) = self._ready_bench().sessions(
            [self.supernet.extract(arch)], constants=[self._constants(arch)]
        )
        return self.table.put(asdict(arch), session)

    def _constants(self, arch: Any) -> Constants | None:
        known = self.table.get(asdict(arch))
        return None if known is None else Constants(known.memory_mib, known.flops)

    def _ready_bench(self) -> Bench:
        if self._bench is None:
            self._bench = Bench(self.supernet.extract(self.largest), self.card, self.effort)
        return self._bench


def reference_record(supernet: Supernet, largest: Any) -> dict[str, object]:
    """What says of a table which model its ratios are relative to."""
    return {"arch": asdict(largest), "model": asdict(supernet.fixed)}


def card_of_table(path: Path, target: TargetConfig, *, in_chans: int) -> DeviceCard:
    """The one device of a table, on which the input was what the settings of `target` say.

    Raises ValueError that lists the devices there unless just one fits.
    """
    wanted = {
        "runtime": target.runtime,
        "batch_size": target.batch_size,
        "img_size": target.img_size,
        "in_chans": in_chans,
        "dtype": target.dtype,
    }
    check("target.table", path.is_file(), "a file that nas measure archs=... made", str(path))
    cards = cards_in(path)
    fitting = [card for card in cards if wanted.items() <= card.record().items()]
    rule = f"measured on one device with {wanted}"
    check("target.table", len(fitting) == 1, rule, [card.describe() for card in cards])
    return fitting[0]
