"""Judged architectures as values: what was scored, what was measured, who asked. Pure.

They become JSON at files and nowhere else: `to_json` and `from_json`, which checks every field, so
that what was read from a stranger's folder is as good as what was made here.
"""

import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Generic, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nas.budgets import COSTS
from nas.checks import check_positive
from search_spaces.space import Arch, ArchT, Space
from supernet.parameter_counts import Counts
from supernet.task import Metric

# What is read must have just the fields of the value, of their types; no NaN, no infinity.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
RecordT = TypeVar("RecordT")


class Strict:
    """A dataclass that is read so."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DeviceCard(Strict):
    """What a latency depends on besides the model: figures of two cards do not compare."""

    device: str  # cpu, cuda:0, ...
    name: str  # of the processor or the GPU
    driver: str  # CUDA and driver versions, empty for the CPU
    host: str  # operating system and machine type
    threads: int  # CPU threads
    dtype: str
    float32_matmul: str  # PyTorch's precision setting of float32 matrix products
    batch_size: int
    inputs: tuple[tuple[int, ...], ...]  # shape of each input, a batch
    runtime: str  # eager, compile, cuda_graph, onnxruntime, tensorrt
    runtime_version: str  # of a runtime other than PyTorch
    torch_version: str
    python_version: str

    def describe(self) -> str:
        where = ", ".join(part for part in (self.name, self.device, self.driver) if part)
        runtime = f"{self.runtime} {self.runtime_version}".strip()
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in self.inputs)
        return (
            f"{where}; inputs {shapes}, {self.dtype}, CPU threads {self.threads}, {runtime}, "
            f"torch {self.torch_version}, Python {self.python_version}, {self.host}"
        )


@dataclass(frozen=True)
class Measurement(Strict):
    """What one architecture costs on one device, per batch of the device's card."""

    latency_ms: float  # ratio times the reference milliseconds of the table
    ratio: float  # to the reference, the largest subnet; median over all pairs of passes
    ratio_low: float  # 95 % interval of that median
    ratio_high: float
    median_ms: float
    p90_ms: float
    spread: float  # interquartile range of the ratios over their median
    num_passes: int
    num_sessions: int
    num_interrupted: int
    num_throttled: int
    memory_mib: float
    resident_mib: float | None
    energy_mj: float | None
    flops: int  # of one example

    def __post_init__(self) -> None:
        # A cost of 0 would meet every budget.
        keys = "latency_ms", "ratio", "ratio_low", "ratio_high", "memory_mib"
        check_positive("measured ", self, *keys)

    @property
    def half_width(self) -> float:
        """How far the interval reaches from the ratio, as a fraction of it."""
        return max(self.ratio_high - self.ratio, self.ratio - self.ratio_low) / self.ratio

    def scaled(self, reference_ms: float) -> "Measurement":
        """The same with milliseconds of a reference that takes so many."""
        return replace(self, latency_ms=self.ratio * reference_ms)


@dataclass(frozen=True)
class Costs(Strict):
    """Every figure of one architecture that a budget may bound, and what it was measured from."""

    measurement: Measurement
    counts: Counts
    params_of_largest: float
    memory_of_largest: float

    def __post_init__(self) -> None:
        check_positive("", self, "params_of_largest", "memory_of_largest")

    def figure(self, cost: str) -> float:
        """One of `nas.budgets.COSTS`."""
        return self.figures()[cost]

    def figures(self) -> dict[str, float]:
        known = self.measurement
        values = (
            known.latency_ms,
            known.ratio,
            self.counts.params,
            self.params_of_largest,
            known.memory_mib,
            self.memory_of_largest,
        )
        return dict(zip(COSTS, values, strict=True))

    def interval(self, cost: str) -> tuple[float, float]:
        """The 95 % interval of a latency; of other costs the figure twice."""
        value = self.figure(cost)
        if not cost.startswith("latency"):
            return value, value
        known = self.measurement
        return value * known.ratio_low / known.ratio, value * known.ratio_high / known.ratio


@dataclass(frozen=True)
class Score(Strict):
    """How good a subnet is on a split, or on the first examples of it."""

    metric: Metric
    value: float  # mean of the metric over the examples
    low: float  # 95 % interval
    high: float
    hope: float  # the better end of the 99.9 % interval
    loss: float
    split: str
    num_examples: int
    complete: bool  # the whole split was seen

    @property
    def worth(self) -> float:
        """Higher is better, whatever the metric."""
        return self.metric.worth(self.value)

    def may_reach(self, worth: float) -> bool:
        """Whether the whole split's score may be worth as much, by what is known of it."""
        return self.worth >= worth if self.complete else self.metric.worth(self.hope) >= worth


@dataclass(frozen=True)
class Asker(Strict):
    """Who asked for an architecture to be judged."""

    study: str | None
    trial: int | None
    origin: str  # smallest, largest, start, sampler, guide, known
    method: str | None  # strategy and sampler of the search


@dataclass(frozen=True)
class Conditions(Strict):
    """What a verdict holds for: these weights on this target."""

    step: int
    weights: str  # fingerprint
    digest: str  # of the target's card


@dataclass(frozen=True)
class Candidate(Strict, Generic[ArchT]):
    """A judged architecture."""

    arch: ArchT
    score: Score
    costs: Costs
    asked_by: Asker
    conditions: Conditions


@dataclass(frozen=True)
class Finalist(Strict, Generic[ArchT]):
    """A candidate measured afresh, by one session alone."""

    arch: ArchT
    score: Score
    searched_ratio: float  # what the search had known
    again: Measurement
    met: bool  # every bound, by the fresh figures themselves

    def __post_init__(self) -> None:
        check_positive("", self, "searched_ratio")


def preference(candidate: Candidate[ArchT]) -> tuple[float, ...]:
    """Ascending from the best: the score first, then what costs less."""
    costs = candidate.costs
    return (-candidate.score.worth, costs.measurement.ratio, costs.counts.params)


def pareto_front(candidates: Sequence[Candidate[ArchT]]) -> list[Candidate[ArchT]]:
    """Those that no other equals or betters in score, latency and parameters, best first.

    Only scores of a whole split compare.
    """
    ranked = sorted((c for c in candidates if c.score.complete), key=preference)
    front: list[Candidate[ArchT]] = []
    for candidate in ranked:  # whoever dominates it comes before it
        own = preference(candidate)
        if not any(dominates(preference(other), own) for other in front):
            front.append(candidate)
    return front


def too_few_examples(front: Sequence[Candidate[ArchT]]) -> str:
    """What to say of a front whose scores chance alone could order; empty where it could not.

    That is so where the best one's 95 % interval is wider than the front.
    """
    if len(front) < 2:
        return ""
    best, values = front[0].score, [candidate.score.value for candidate in front]
    spread, width = max(values) - min(values), best.high - best.low
    if width < spread:
        return ""
    text = best.metric.text
    return (
        f"{best.num_examples} examples of {best.split} hardly tell these subnets apart: the best "
        f"score's 95 % interval is {text(width)} wide, the whole front {text(spread)} "
        "(more examples narrow it)"
    )


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def to_json(value: object) -> dict[str, object]:
    """The JSON record of a value of this module."""
    return asdict(value)  # type: ignore[call-overload]


def from_json(kind: type[RecordT], record: object, space: Space[Arch], where: str) -> RecordT:
    """The value of a JSON record; architectures in it are checked by the space.

    Raises ValueError that names the place, the field and what came.
    """
    try:
        found = with_archs(record, space)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    return checked(kind, found, where)


def checked(kind: type[RecordT], record: object, where: str) -> RecordT:
    """The value of a record whose architectures are values; raises ValueError as `from_json`."""
    try:
        value: RecordT = adapter(cast(Hashable, kind)).validate_python(record)
        return value
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "it"
        came = reprlib.repr(first["input"])
        raise ValueError(f"{where}: {name}: {first['msg']}, got {came}") from error


def with_archs(record: object, space: Space[Arch]) -> object:
    """The record with values in the place of the architectures in it, at any depth."""
    if isinstance(record, Mapping):
        return {
            key: arch_of(value, space) if key == "arch" else with_archs(value, space)
            for key, value in record.items()
        }
    if isinstance(record, list):
        return [with_archs(value, space) for value in record]
    return record


def arch_of(record: object, space: Space[Arch]) -> Arch:
    if not isinstance(record, Mapping):
        raise ValueError(f"arch must be a JSON object, got {reprlib.repr(record)}")
    return space.from_record(record)


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
