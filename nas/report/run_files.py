"""What the files of a run hold, as values: all that a section of the page reads."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Generic

from pydantic import ConfigDict

from nas.budgets import Budgets
from nas.records import Candidate, DeviceCard, Measurement
from nas.report.show import code
from nas.results import ExportResult, RankResult, SearchResult
from search_spaces.space import Arch, ArchT, Space
from supernet.task import Metric, Task

SOME = ConfigDict(extra="ignore", allow_inf_nan=False)  # of records that hold more than is shown


@dataclass(frozen=True)
class Settings:
    """What the page tells of config.yaml."""

    __pydantic_config__ = SOME

    run: str
    seed: int
    space: dict[str, object]
    task: dict[str, object]
    data: dict[str, object]
    budget: dict[str, float | None]


@dataclass(frozen=True)
class OnlyPath:
    __pydantic_config__ = SOME

    arch: dict[str, object] | None = None  # None for a run that is no single subnet's


@dataclass(frozen=True)
class Length:
    __pydantic_config__ = SOME

    init: str
    epochs: int


@dataclass(frozen=True)
class AloneSettings:
    """What the page tells of the config.yaml of one subnet's run."""

    __pydantic_config__ = SOME

    paths: OnlyPath
    train: Length


@dataclass(frozen=True)
class Logged:
    """A line of metrics.jsonl, of one of `KINDS`; an evaluation is of one probe."""

    __pydantic_config__ = SOME

    kind: str
    step: int
    epoch: float
    figures: dict[str, float]
    probe: str = ""
    split: str = ""
    num_examples: int = 0


@dataclass(frozen=True)
class Measured(Generic[ArchT]):
    """A line of latency.jsonl: a session, and all sessions of the architecture so far together."""

    __pydantic_config__ = SOME

    digest: str
    arch: ArchT
    card: DeviceCard
    measurement: Measurement
    model_ms: tuple[float, ...]
    num_interrupted: int
    num_throttled: int


@dataclass(frozen=True)
class Probabilities:
    """paths.json: how likely each option of each choice is drawn."""

    __pydantic_config__ = SOME

    epoch: int
    probabilities: dict[str, dict[str, float]]

    def __post_init__(self) -> None:
        chances = [list(options.values()) for options in self.probabilities.values()]
        if not chances or not all(row and 0 <= min(row) <= max(row) <= 1 for row in chances):
            raise ValueError(f"probabilities must be in 0..1, got {self.probabilities}")


@dataclass(frozen=True)
class Alone:
    """A run within the run, of one subnet: its evaluations, from the supernet's weights or none."""

    arch: Arch
    inherits: bool
    epochs: int
    logged: tuple[Logged, ...]


@dataclass(frozen=True)
class RunFiles:
    """A run's files; None or empty where a stage has not made one."""

    folder: Path
    settings: Settings
    space: Space[Arch]
    task: Task
    logged: tuple[Logged, ...]
    measured: tuple[Measured[Arch], ...]
    num_old: int  # lines of latency.jsonl of an older format
    known: tuple[Candidate[Arch], ...]  # of candidates.jsonl, what compares, an architecture once
    num_others: int  # of its lines, those of other conditions or another format
    search: SearchResult[Arch] | None
    export: ExportResult[Arch] | None
    is_outdated: bool  # there is an export, but of an earlier search: `export` is None
    probabilities: Probabilities | None
    rank: RankResult[Arch] | None
    alone: tuple[Alone, ...]  # finetuned*/ and scratch*/

    @property
    def metric(self) -> Metric:
        return self.task.metric

    def command(self, stage: str) -> str:
        """The command that makes a stage's files, as HTML."""
        return code(f"nas {stage} run={self.settings.run}")

    @cached_property
    def budgets(self) -> Budgets:
        """Those that the search ran under; before it, those that the configuration sets."""
        return self.search.budgets if self.search else Budgets.of(self.settings.budget)

    def meets(self, candidate: Candidate[Arch]) -> bool:
        return self.budgets.admit(candidate.costs)

    @property
    def judged(self) -> tuple[Candidate[Arch], ...]:
        """The candidates of the search, each architecture once, in the order of judging."""
        return self.search.candidates if self.search else self.known

    @property
    def chosen_arch(self) -> Arch | None:
        """The exported architecture, which need not be the search's own choice."""
        if self.export:
            return self.export.arch
        return self.search.chosen.arch if self.search and self.search.chosen else None

    @cached_property
    def named(self) -> dict[str, Candidate[Arch]]:
        """The chosen, the smallest and the largest subnet, as far as they were judged."""
        if not self.search:
            return {}
        ends = {"smallest": self.search.smallest, "largest": self.search.largest}
        chosen = self.search.chosen
        if chosen is None or chosen.arch != self.chosen_arch:
            chosen = next((c for c in self.judged if c.arch == self.chosen_arch), None)
        return {"chosen": chosen, **ends} if chosen else ends

    @cached_property
    def card(self) -> DeviceCard | None:
        """Of the device that the candidates were measured on."""
        if self.search:
            return self.search.card
        digests = {candidate.conditions.digest for candidate in self.known}
        return next((line.card for line in self.measured if line.digest in digests), None)

    def lines(self, kind: str, key: str) -> list[Logged]:
        """The lines of a kind that have a figure."""
        return [line for line in self.logged if line.kind == kind and key in line.figures]

    def devices(self) -> list[tuple[DeviceCard, dict[Arch, Measurement]]]:
        """What each device's lines say last of each architecture, on the scale of the newest."""
        last = {line.digest: line for line in self.measured}
        known: dict[str, dict[Arch, Measurement]] = {digest: {} for digest in last}
        for line in self.measured:
            newest = last[line.digest].measurement
            scale = newest.latency_ms / newest.ratio  # milliseconds of the reference
            known[line.digest][line.arch] = line.measurement.scaled(scale)
        return [(last[digest].card, found) for digest, found in known.items()]

    def newest_input(self) -> str:
        """When the newest of the files read was last changed, in UTC."""
        names = ("*.json*", "subnet/card.json", "finetuned*/*.jsonl", "scratch*/*.jsonl")
        paths = [path for name in names for path in self.folder.glob(name)]
        newest = max(path.stat().st_mtime for path in (self.folder / "config.yaml", *paths))
        return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M UTC")
