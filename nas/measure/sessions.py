"""Sessions of timed passes on this machine's device, put into a table."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from nas.files import locked
from nas.hardware.device import device_lock
from nas.hardware.runtimes import Inputs
from nas.hardware.timing import Effort, Latency
from nas.measure.bench import Bench, Session
from nas.measure.latency_table import LatencyTable
from nas.records import Measurement
from nas.results import RuntimeLatency
from search_spaces.space import Arch


class Sessions:
    """Sessions on this machine's device, put into a table.

    One process of the machine has the device to itself at a time: passes beside it slow each other.
    """

    def __init__(
        self,
        table: LatencyTable,
        model_of: Callable[[Arch], nn.Module],
        inputs: Inputs,
        effort: Effort,
    ) -> None:
        self.table, self.model_of = table, model_of
        self.inputs, self.effort = inputs, effort
        self.lock = device_lock(torch.device(table.card.device))
        self._bench: Bench | None = None
        self._closed_s = 0.0

    @property
    def passes_s(self) -> float:
        return self._closed_s + (self._bench.passes_s if self._bench else 0.0)

    def close(self) -> None:
        if self._bench is not None:
            self._closed_s += self._bench.passes_s
            self._bench.close()
            self._bench = None

    def measure(self, arch: Arch) -> Measurement:
        """What the table knows, else what is measured now and put into it."""
        known = self.table.get(arch)
        if known is not None:
            return known
        with locked(self.lock, blocking=True):
            # Another process may have measured it while this one waited.
            return self.table.get(arch) or self._put([arch])[0][1]

    def measure_more(self, arch: Arch) -> Measurement:
        """One session more, pooled with those before it."""
        with locked(self.lock, blocking=True):
            return self._put([arch])[0][1]

    def side_by_side(self, archs: Sequence[Arch]) -> list[Measurement]:
        """Each by one session alone, in which they take turns; the table learns it too."""
        with locked(self.lock, blocking=True):
            return [self.table.alone(session) for session, _ in self._put(archs)]

    def measure_alone(self, model: nn.Module) -> Measurement:
        """One session of a model, of which the table does not learn."""
        with locked(self.lock, blocking=True):
            (session,) = self._ready_bench().sessions([model], details=True)
        return self.table.alone(session)

    def across_runtimes(self, model: nn.Module, names: Sequence[str]) -> tuple[RuntimeLatency, ...]:
        with locked(self.lock, blocking=True):
            found = self._ready_bench().across_runtimes(model, names)
        scale = self.table.reference_ms
        return tuple(runtime_latency(name, latency, scale) for name, latency in found.items())

    def _put(self, archs: Sequence[Arch]) -> list[tuple[Session, Measurement]]:
        """One session of each in the table, with what is known of each by then."""
        models, known = map(self.model_of, archs), map(self.table.get, archs)
        sessions = self._ready_bench().sessions([*models], known=[*known])
        pairs = zip(archs, sessions, strict=True)
        return [(session, self.table.put(arch, session)) for arch, session in pairs]

    def _ready_bench(self) -> Bench:
        if self._bench is None:
            reference = self.model_of(self.table.largest)
            self._bench = Bench(reference, self.inputs, self.table.card, self.effort)
        return self._bench


def runtime_latency(runtime: str, found: Latency | str, reference_ms: float) -> RuntimeLatency:
    if isinstance(found, str):
        return RuntimeLatency(runtime, unavailable=found)
    return RuntimeLatency(
        runtime,
        latency_ms=found.ratio * reference_ms,
        ratio=found.ratio,
        ratio_low=found.ratio_low,
        ratio_high=found.ratio_high,
        num_passes=found.num_passes,
    )
