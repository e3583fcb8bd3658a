"""Verdicts on architectures: costs on the target and accuracy on val, each asked for once."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nas.config.config import Config
from nas.data.batches import ImageData
from nas.evaluate import STOP_CONFIDENCE, Accuracy, calibrated, evaluate
from nas.files import RecordReader, append_record, locked
from nas.hardware.device import device_lock
from nas.measure.meter import CostMeter, straddled, violations
from nas.search.study import conditions
from supernet.supernet import Supernet

Candidate = dict[str, Any]  # a line of candidates.jsonl


class Judge:
    """Judges architectures of one supernet; what any process judged before is not judged again."""

    def __init__(
        self,
        config: Config,
        run: Path,
        supernet: Supernet,
        data: ImageData,
        device: torch.device,
        step: int,
    ) -> None:
        self.path = run / "candidates.jsonl"
        self.batch_size = config.data.batch_size
        self.supernet = supernet
        self.data = data
        self.device = device
        self.meter = CostMeter(config, run, supernet)
        # Verdicts of other weights or another target say nothing here.
        self.conditions = conditions(step, supernet, self.meter.card)
        self.accuracy_s = 0.0  # spent in passes by this process
        self._reader = RecordReader(self.path)
        self._candidates: dict[str, Candidate] = {}

    def candidates(self) -> list[Candidate]:
        """Everything judged under these conditions, by any process, once an architecture.

        Costs are as they are known by now, all milliseconds on one scale.
        """
        return [self.meter.refreshed(candidate) for candidate in self._read().values()]

    def find(self, arch: Any) -> Candidate | None:
        return self._read().get(arch_key(asdict(arch)))

    def judge(
        self, arch: Any, bounds: Mapping[str, float], *, whole: bool = False, **asked_by: Any
    ) -> Candidate:
        """Known or new; a new one is recorded with who asked for it.

        Its accuracy is of the first images alone where these suffice to see that others are better
        at no more cost, unless the `whole` split is wanted.
        """
        known = self.find(arch)
        if known is not None and (is_complete(known) or not whole):
            return self.settled(known, arch, bounds)
        costs = self.meter.costs(arch, bounds).record()
        plain = self.supernet.extract(arch).to(self.device)
        rivals = within(list(self._read().values()), bounds)
        floor = 0.0 if whole else best_at_no_more_cost(rivals, costs)
        # Beside other workers' accuracy passes, but never beside a timed one.
        with locked(device_lock(self.device), blocking=True, shared=True):
            begin = time.perf_counter()
            plain = calibrated(plain, self.data, self.batch_size)
            accuracy = evaluate(plain, self.data, "val", floor=floor)
            self.accuracy_s += time.perf_counter() - begin
        if not math.isfinite(accuracy.loss):
            raise ValueError(f"the supernet's loss on val must be finite, got {accuracy} of {arch}")
        candidate = {
            "arch": asdict(arch),
            **asked_by,
            **asdict(accuracy),
            "complete": accuracy.num_examples == self.data.num_examples("val"),
            **costs,
            **self.conditions,
        }
        append_record(self.path, candidate)
        return candidate

    def settled(self, known: Candidate, arch: Any, bounds: Mapping[str, float]) -> Candidate:
        """A known candidate, measured more if its latency's interval holds a bound."""
        refreshed = self.meter.refreshed(known)
        if straddled(refreshed, bounds):
            self.meter.costs(arch, bounds)
            refreshed = self.meter.refreshed(known)
        return refreshed

    def learn(self, records: Iterable[Candidate]) -> None:
        """Takes over what other run folders judged under these conditions."""
        for record in records:
            if self.conditions.items() <= record.items():
                key = arch_key(record["arch"])
                if key not in self._candidates or is_complete(record):
                    self._candidates[key] = record

    def _read(self) -> dict[str, Candidate]:
        self.learn(self._reader.new())
        return self._candidates


def best_at_no_more_cost(candidates: Iterable[Candidate], costs: Mapping[str, Any]) -> float:
    """The best accuracy, of a whole split, of those that cost no more in latency and parameters."""
    keys = ("latency_of_largest", "params")
    return max(
        (
            candidate["top1"]
            for candidate in candidates
            if is_complete(candidate) and all(candidate[key] <= costs[key] for key in keys)
        ),
        default=0.0,
    )


def may_exceed(candidate: Mapping[str, Any], top1: float) -> bool:
    """Whether the whole split's accuracy may be `top1` or more, by what is known of it."""
    if is_complete(candidate):
        return bool(candidate["top1"] >= top1)
    fields = ("split", "top1", "loss", "num_examples")
    accuracy = Accuracy(**{field: candidate[field] for field in fields})
    return accuracy.interval(STOP_CONFIDENCE)[1] >= top1


def is_complete(candidate: Mapping[str, Any]) -> bool:
    """Whether its accuracy is of the whole split."""
    return bool(candidate["complete"])


def within(candidates: Sequence[Candidate], bounds: Mapping[str, float]) -> list[Candidate]:
    """Those that meet every bound."""
    return [c for c in candidates if max(violations(c, bounds).values(), default=0) <= 0]


def preference(candidate: Candidate) -> tuple[float, ...]:
    """Ascending from the best: accuracy first, then what costs less."""
    return (-candidate["top1"], candidate["latency_of_largest"], candidate["params"])


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other equals or betters in accuracy, latency and parameters, best first."""
    points = [(preference(c), c) for c in candidates if is_complete(c)]
    best = [
        candidate
        for point, candidate in points
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other, _ in points
        )
    ]
    return sorted(best, key=preference)


def arch_key(record: Mapping[str, Any]) -> str:
    """Equal for an architecture and its JSON record."""
    return json.dumps(record, sort_keys=True)
