"""What subnets of a supernet cost on the target: measured here, or known from another machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nas.budgets import Budgets
from nas.checks import check
from nas.config.config import Config
from nas.config.sections import TargetConfig
from nas.hardware import nvml
from nas.hardware.device import device_card, shapes
from nas.hardware.runtimes import Inputs
from nas.hardware.timing import Effort
from nas.measure.bench import effort_of
from nas.measure.latency_table import LatencyTable, cards_in
from nas.measure.sessions import Sessions
from nas.records import Costs, DeviceCard, Measurement
from nas.results import RuntimeLatency
from search_spaces.space import Arch, to_record
from supernet.parameter_counts import Counts, count
from supernet.supernet import Supernet

MOST_SESSIONS = 4  # of a subnet whose interval holds a bound
NO_BUDGETS = Budgets()


class Meter:
    """Costs of the architectures of one supernet on one target, by `table`.

    This one knows what another machine has measured, and measures nothing. What was measured once,
    by any process, is known from then on.
    """

    def __init__(self, supernet: Supernet[Arch], table: LatencyTable) -> None:
        self.supernet, self.table = supernet, table
        self.card, self.largest = table.card, table.largest
        self.largest_counts = count(supernet, self.largest)
        self._counts = {self.largest: self.largest_counts}

    @property
    def passes_s(self) -> float:
        """Seconds that this process has spent in timed passes and those for memory."""
        return 0.0

    @property
    def unwatched(self) -> str:
        """Why nobody watches for a throttled clock; empty if somebody does, or none is timed."""
        return ""

    def archs(self) -> list[Arch] | None:
        """All that may be proposed, None for the whole space."""
        return self.table.archs()

    def measure(self, arch: Arch) -> Measurement:
        """What is known, or else can be measured."""
        known = self.table.get(arch)
        if known is None:
            rule = f"a table that holds {to_record(arch)}; nas measure archs=... measures it there"
            raise ValueError(f"target.table must be {rule}, got {self.table.path}")
        return known

    def can_improve(self, costs: Costs) -> bool:
        """Whether more sessions may narrow the interval of the latency."""
        return False

    def side_by_side(self, archs: Sequence[Arch]) -> list[Measurement]:
        """Each by one fresh session in which they take turns, where sessions can be had."""
        return [self.measure(arch) for arch in archs]

    def costs_afresh(self, arch: Arch, model: nn.Module) -> Costs:
        """The costs of `arch`, by a fresh session of its plain model where one can be had."""
        return self.costs(arch)

    def across_runtimes(self, model: nn.Module, names: Sequence[str]) -> tuple[RuntimeLatency, ...]:
        """One model's latency in several runtimes that take turns, on the table's scale."""
        return ()

    def costs(self, arch: Arch, budgets: Budgets = NO_BUDGETS) -> Costs:
        """Measures what is not known, and more where the latency's interval holds a bound."""
        return self._costs(arch, self.measure(arch))

    def refreshed(self, arch: Arch, costs: Costs) -> Costs:
        """The costs as the table knows them by now."""
        own, largest = self.table.get(arch), self.table.get(self.largest)
        if own is None or largest is None:  # somebody has removed the table
            return costs
        share = own.memory_mib / largest.memory_mib
        return replace(costs, measurement=own, memory_of_largest=share)

    def counts(self, arch: Arch) -> Counts:
        if arch not in self._counts:
            self._counts[arch] = count(self.supernet, arch)
        return self._counts[arch]

    def drift(self) -> float:
        """By how much the reference's milliseconds ranged over the sessions, as a fraction."""
        return self.table.drift()

    def close(self) -> None:
        """Releases what is held on the device."""

    def _costs(self, arch: Arch, measurement: Measurement) -> Costs:
        counts = self.counts(arch)
        return Costs(
            measurement=measurement,
            counts=counts,
            params_of_largest=counts.params / self.largest_counts.params,
            memory_of_largest=measurement.memory_mib / self.measure(self.largest).memory_mib,
        )


class DeviceMeter(Sessions, Meter):
    """Measures on this machine's target what its table does not know."""

    def __init__(
        self, supernet: Supernet[Arch], table: LatencyTable, inputs: Inputs, effort: Effort
    ) -> None:
        Meter.__init__(self, supernet, table)
        Sessions.__init__(self, table, supernet.extract, inputs, effort)

    @property
    def unwatched(self) -> str:
        device = torch.device(self.card.device)
        return nvml.unavailable(device) if device.type == "cuda" else ""

    def archs(self) -> list[Arch] | None:
        return None

    def can_improve(self, costs: Costs) -> bool:
        return costs.measurement.num_sessions < MOST_SESSIONS

    def costs(self, arch: Arch, budgets: Budgets = NO_BUDGETS) -> Costs:
        costs = super().costs(arch)
        while budgets.straddled(costs) and self.can_improve(costs):
            costs = self._costs(arch, self.measure_more(arch))
        return costs

    def costs_afresh(self, arch: Arch, model: nn.Module) -> Costs:
        self.measure(arch)  # which the table holds from then on
        return self._costs(arch, self.measure_alone(model))


def open_meter(config: Config, run: Path, supernet: Supernet[Arch]) -> Meter:
    """By the table of `target.table`, or on this machine with the table of the run."""
    target, space, sizes = config.target, config.space, supernet.fixed
    inputs = config.task.example_inputs(target.batch_size)
    if target.table:
        path = Path(target.table)
        card = card_of_table(path, target, inputs)
        return Meter(supernet, LatencyTable(path, card, space, sizes))
    table = LatencyTable(run / "latency.jsonl", device_card(target, inputs), space, sizes)
    return DeviceMeter(supernet, table, inputs, effort_of(target))


def card_of_table(path: Path, target: TargetConfig, inputs: Inputs) -> DeviceCard:
    """The one device of a table, on which the inputs were what the settings of `target` say.

    Raises ValueError that lists the devices there unless just one fits.
    """
    wanted = {
        "runtime": target.runtime,
        "batch_size": target.batch_size,
        "inputs": shapes(inputs),
        "dtype": target.dtype,
    }
    check("target.table", path.is_file(), "a file that nas measure archs=... made", str(path))
    cards = cards_in(path)
    fitting = [card for card in cards if wanted.items() <= vars(card).items()]
    rule = f"measured on one device with {wanted}"
    check("target.table", len(fitting) == 1, rule, [card.describe() for card in cards])
    return fitting[0]
