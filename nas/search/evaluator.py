"""Judges architectures: costs on the target and a score on val, each asked for once."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from nas.config.config import Config
from nas.data.batches import Dataset
from nas.evaluate import calibrated, evaluate
from nas.files import RecordReader, append_record, locked
from nas.hardware.device import device_lock
from nas.measure.meter import open_meter
from nas.records import (
    Asker,
    Candidate,
    Costs,
    Score,
    dominates,
    from_json,
    preference,
    to_json,
)
from nas.search.study import conditions
from search_spaces.space import Arch
from supernet.supernet import Supernet


class Evaluator:
    """Judges architectures of one supernet; what any process judged before is not judged again.

    `known` is everything judged under these conditions, once an architecture, with the costs that
    were known when it was judged.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        supernet: Supernet[Arch],
        data: Dataset,
        device: torch.device,
        step: int,
    ) -> None:
        self.path = run / "candidates.jsonl"
        self.space, self.budgets = config.space, config.budget
        self.batch_size = config.data.batch_size
        self.supernet, self.data, self.device = supernet, data, device
        self.meter = open_meter(config, run, supernet)
        # What was judged of other weights or on another target says nothing here.
        self.conditions = conditions(step, supernet, self.meter.card)
        self.scores_s = 0.0  # spent in passes by this process
        self.known: dict[Arch, Candidate[Arch]] = {}
        self.front = Front()  # of what was judged on the whole split and is within the budgets
        self._conditions_record = to_json(self.conditions)
        self._reader = RecordReader(self.path)

    def candidates(self) -> list[Candidate[Arch]]:
        """All known ones, with costs as they are known by now, all milliseconds on one scale."""
        self.read()
        return [self.refreshed(candidate) for candidate in self.known.values()]

    def refreshed(self, candidate: Candidate[Arch]) -> Candidate[Arch]:
        return replace(candidate, costs=self.meter.refreshed(candidate.arch, candidate.costs))

    def find(self, arch: Arch) -> Candidate[Arch] | None:
        self.read()
        return self.known.get(arch)

    def judge(self, arch: Arch, asked_by: Asker, *, whole: bool = False) -> Candidate[Arch]:
        """Known or new; a new one is recorded with who asked for it.

        Its score is of the first examples alone where these suffice to see that others are better
        at no more cost, unless the `whole` split is wanted.
        """
        known = self.find(arch)
        if known is not None and (known.score.complete or not whole):
            return self.settled(known)
        costs = self.meter.costs(arch, self.budgets)
        score = self.score(arch, None if whole else self.front.best_at_no_more_cost(costs))
        candidate = Candidate(arch, score, costs, asked_by, self.conditions)
        append_record(self.path, to_json(candidate))
        self.add(candidate)
        return candidate

    def score(self, arch: Arch, floor: float | None) -> Score:
        plain = self.supernet.extract(arch).to(self.device)
        # Beside other workers' passes on val, but never beside a timed one.
        with locked(device_lock(self.device), blocking=True, shared=True):
            begin = time.perf_counter()
            plain = calibrated(plain, self.data, self.batch_size)
            score = evaluate(plain, self.data, "val", floor=floor)
            self.scores_s += time.perf_counter() - begin
        if not math.isfinite(score.loss):
            raise ValueError(f"the supernet's loss on val must be finite, got {score} of {arch}")
        return score

    def settled(self, known: Candidate[Arch]) -> Candidate[Arch]:
        """A known candidate, measured more if its latency's interval holds a bound."""
        refreshed = self.refreshed(known)
        if self.budgets.straddled(refreshed.costs):
            return replace(known, costs=self.meter.costs(known.arch, self.budgets))
        return refreshed

    def read(self) -> None:
        """Takes over what other processes have written into the run folder since the last call."""
        for record in self._reader.new():
            self.learn(record, str(self.path))

    def learn(self, record: Mapping[str, object], where: str) -> None:
        """Takes over the JSON record of a candidate, if it was judged under these conditions."""
        if record.get("conditions") == self._conditions_record:
            self.add(from_json(Candidate, record, self.space, where))

    def add(self, candidate: Candidate[Arch]) -> None:
        if candidate.arch in self.known and not candidate.score.complete:
            return
        self.known[candidate.arch] = candidate
        if candidate.score.complete and self.budgets.admit(candidate.costs):
            self.front.add(candidate)


class Front:
    """The Pareto front of what was added so far: score, latency and parameters."""

    def __init__(self) -> None:
        self.points: list[tuple[float, ...]] = []  # as `preference` gives them

    def add(self, candidate: Candidate[Arch]) -> None:
        own = preference(candidate)
        if not any(other == own or dominates(other, own) for other in self.points):
            self.points = [other for other in self.points if not dominates(own, other)]
            self.points.append(own)

    def best_at_no_more_cost(self, costs: Costs) -> float | None:
        """The best worth of those that cost no more in latency and parameters; None if none do."""
        ratio, params = costs.measurement.ratio, costs.counts.params
        return max(
            (-loss for loss, *own in self.points if own[0] <= ratio and own[1] <= params),
            default=None,
        )
