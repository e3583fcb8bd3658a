"""What the stages leave for each other and for the report, as values. Pure.

search.json is a `SearchResult`, subnet/card.json an `ExportResult`, rank.json a `RankResult`; each
is read by `nas.records.from_json`.
"""

from dataclasses import dataclass
from typing import Generic

from nas.budgets import COSTS, Bound, Budgets
from nas.records import Candidate, Conditions, Costs, DeviceCard, Finalist, Score, Strict
from search_spaces.space import ArchT
from supernet.parameter_counts import Counts

SCORE = "score"  # the key of its prediction; the others are costs


@dataclass(frozen=True)
class Prediction(Strict):
    """Of one target of a guided search, what was predicted without having seen it.

    `mae` is in the target's unit, `mape` a fraction of the target, `tau` Kendall's tau-b; None
    where undefined. Those of the band are of the architectures near a bound alone.
    """

    kind: str  # of regression
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    mae: float
    mape: float | None
    tau: float | None
    band_size: int
    band_mae: float | None
    band_mape: float | None
    band_tau: float | None

    def __post_init__(self) -> None:
        if len(self.predicted) != len(self.measured):
            raise ValueError(
                "predicted and measured must be of the same architectures, "
                f"got {len(self.predicted)} and {len(self.measured)}"
            )


@dataclass(frozen=True)
class Seconds(Strict):
    """Where a search command spent its time; what is not passes of a model is overhead."""

    total: float
    scores: float  # passes on val
    costs: float  # timed passes, and those whose memory is measured
    proposals: float


@dataclass(frozen=True)
class SearchResult(Strict, Generic[ArchT]):
    """The question of a search, its answer, and all that was judged."""

    objective: str
    strategy: str
    budget: dict[str, float]  # limits by key
    study: str
    conditions: Conditions
    card: DeviceCard
    chosen: Candidate[ArchT] | None
    smallest: Candidate[ArchT]
    largest: Candidate[ArchT]
    candidates: tuple[Candidate[ArchT], ...]  # `asked_by.trial` is what `pick` knows each by
    finalists: tuple[Finalist[ArchT], ...]  # in the order of preference
    verified: tuple[Finalist[ArchT], ...]  # the chosen one, measured again later
    num_trials: int
    num_known: int  # of the trials, answered by earlier searches
    ended_by: str
    reference_drift: float  # range of the reference's milliseconds over sessions, over their median
    predictions: dict[str, Prediction]  # of `SCORE` and of costs
    seconds: Seconds

    def __post_init__(self) -> None:
        Budgets.of(self.budget)  # raises for what is no budget
        if not self.predictions.keys() <= {SCORE, *COSTS}:
            raise ValueError(f"predictions must be of {SCORE} and costs, got {self.predictions}")

    @property
    def budgets(self) -> Budgets:
        return Budgets.of(self.budget)


@dataclass(frozen=True)
class Verdict(Strict):
    """A bound, with the value measured just now, of a latency the median."""

    key: str
    limit: float
    value: float
    met: bool

    def __post_init__(self) -> None:
        Bound(self.key, self.limit)  # raises for what is no bound

    @property
    def bound(self) -> Bound:
        return Bound(self.key, self.limit)


@dataclass(frozen=True)
class RuntimeLatency(Strict):
    """The exported subnet in one runtime, relative to the largest in the target's own runtime."""

    runtime: str
    unavailable: str = ""  # why it cannot run here; then there is no figure
    latency_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    num_passes: int | None = None


@dataclass(frozen=True)
class ExportResult(Strict, Generic[ArchT]):
    """An exported subnet: card.json."""

    arch: ArchT
    model: dict[str, int | float | str]  # the family's fixed sizes
    task: dict[str, object]  # facts for who uses the model
    data: dict[str, object]  # options of the data set
    test: Score
    largest_test: Score | None  # None for a subnet trained alone, which has no larger one
    costs: Costs  # measured afresh
    largest_counts: Counts
    searched_ratio: float | None  # what was known before the export; None if nothing was measured
    runtimes: tuple[RuntimeLatency, ...]
    budgets: tuple[Verdict, ...]
    differences: dict[str, float]  # largest, of an output, by file
    card: DeviceCard
    step: int
    study: str | None  # None if exported from an architecture file
    command: str
    commit: str


@dataclass(frozen=True)
class Estimate(Strict):
    """A figure of a ranking, its 95 % interval and its spread over checkpoints; None: undefined."""

    value: float | None
    low: float | None
    high: float | None
    sd: float | None = None


@dataclass(frozen=True)
class Ranked(Strict, Generic[ArchT]):
    """One architecture of a ranking."""

    arch: ArchT
    true: float
    params: float
    flops: int  # of one example
    predicted: tuple[float, ...]  # by checkpoint


@dataclass(frozen=True)
class RankResult(Strict, Generic[ArchT]):
    """How well a supernet's scores rank architectures: rank.json."""

    settings: dict[str, str | int]  # options of nas rank
    truth: str  # where the true scores are from, in words
    truth_is_fraction: bool  # shown in percent
    predicted: str  # what predicts, in words
    predicted_is_fraction: bool
    num_examples: int  # of val, behind each prediction
    batch_size: int
    steps: tuple[int, ...]  # of each checkpoint
    supernet: dict[str, Estimate]  # by figure, the mean over checkpoints
    checkpoints: tuple[dict[str, Estimate], ...]
    baselines: dict[str, dict[str, Estimate]]  # params, flops
    archs: tuple[Ranked[ArchT], ...]
    commit: str
    seconds: float

    def __post_init__(self) -> None:
        for one in self.archs:
            if len(one.predicted) != len(self.steps) or not self.steps:
                raise ValueError(
                    f"predicted must be one score for each of the {len(self.steps)} checkpoints, "
                    f"got {len(one.predicted)}"
                )
