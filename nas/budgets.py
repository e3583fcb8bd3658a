"""Budgets: bounds on what a subnet costs, how far subnets are from them, and how to say so. Pure.

A latency is known within an interval. Whether a bound on it is met is judged by the worse end, so
that noise alone meets no budget.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

LOWER = "min_"  # begins the key of a lower bound
SLACK = 0.1  # by which some subnet may be faster than the smallest, or slower than the largest

UNITS = {  # of what a bound limits, in words
    "latency_ms": "ms a batch",
    "latency_of_largest": "of the largest subnet's latency",
    "params": "elements in the smaller weights file",
    "params_of_largest": "of the largest subnet's elements",
    "memory_mib": "MiB at the peak",
    "memory_of_largest": "of the largest subnet's peak memory",
}
COSTS = tuple(UNITS)
KEYS = (*COSTS, *(LOWER + cost for cost in COSTS))


class Priced(Protocol):
    """What a bound reads of a subnet."""

    def figure(self, cost: str) -> float:
        """One of `COSTS`."""

    def interval(self, cost: str) -> tuple[float, float]:
        """The 95 % interval of a latency; of other costs the figure twice."""


@dataclass(frozen=True)
class Bound:
    """One bound, under its key in the configuration: a cost, or min_ and a cost."""

    key: str
    limit: float

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise ValueError(f"budget.{self.key} must be one of {COSTS}, or min_ and one of them")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"budget.{self.key} must be positive, got {self.limit}")

    @property
    def cost(self) -> str:
        return self.key.removeprefix(LOWER)

    @property
    def is_lower(self) -> bool:
        return self.key.startswith(LOWER)

    @property
    def sign(self) -> str:
        return ">=" if self.is_lower else "<="

    def over(self, value: float) -> float:
        """How far a value misses the bound, as a fraction of it; met when <= 0."""
        return 1 - value / self.limit if self.is_lower else value / self.limit - 1

    def at(self, excess: float) -> float:
        """The value that misses the bound by so much."""
        return self.limit * (1 - excess if self.is_lower else 1 + excess)

    def excess(self, costs: Priced) -> float:
        """How far the worse end of the interval misses the bound."""
        return max(map(self.over, costs.interval(self.cost)))

    def least_excess(self, costs: Priced) -> float:
        """How far the better end does."""
        return min(map(self.over, costs.interval(self.cost)))

    def is_met(self, costs: Priced) -> bool:
        """Whether the figure itself, of a latency the median, keeps the bound."""
        return self.over(costs.figure(self.cost)) <= 0

    def text(self, value: float) -> str:
        return figure(self.cost, value)

    def __str__(self) -> str:
        return f"budget.{self.key} {self.sign} {self.text(self.limit)}"


@dataclass(frozen=True)
class Budgets:
    """All bounds of a search; a lower and an upper one on one cost are a window."""

    bounds: tuple[Bound, ...] = ()

    def __post_init__(self) -> None:
        limits = self.record()
        for bound in self.bounds:
            upper = limits.get(bound.cost, math.inf)
            if bound.is_lower and bound.limit > upper:
                raise ValueError(
                    f"budget.{bound.key} must be at most the upper bound, {upper:g}, "
                    f"got {bound.limit}"
                )

    @classmethod
    def of(cls, limits: Mapping[str, float | None]) -> "Budgets":
        """Of limits by key; None is no bound."""
        return cls(tuple(Bound(k, limit) for k, limit in limits.items() if limit is not None))

    def record(self) -> dict[str, float]:
        return {bound.key: bound.limit for bound in self.bounds}

    def __iter__(self) -> Iterator[Bound]:
        return iter(self.bounds)

    def __bool__(self) -> bool:
        return bool(self.bounds)

    def violations(self, costs: Priced) -> dict[str, float]:
        """How far each bound is missed, as a fraction of it; met when <= 0."""
        return {bound.key: bound.excess(costs) for bound in self.bounds}

    def admit(self, costs: Priced) -> bool:
        """Whether every bound is met by the worse end of its interval."""
        return all(bound.excess(costs) <= 0 for bound in self.bounds)

    def total_excess(self, figures: Mapping[str, float]) -> float:
        """The sum of how far bounds on the given figures are missed; 0 if all of them are met."""
        return sum(
            max(bound.over(figures[bound.cost]), 0.0)
            for bound in self.bounds
            if bound.cost in figures
        )

    def straddled(self, costs: Priced) -> list[str]:
        """The keys of bounds that lie within the interval of the latency: noise decides them."""
        return [b.key for b in self.bounds if b.excess(costs) > 0 >= b.least_excess(costs)]

    def out_of_reach(self, smallest: Priced, largest: Priced) -> list[str]:
        """The keys of bounds that no subnet can meet: none costs less than the smallest, or more
        than the largest.

        A latency counts by the better end of its interval, so that noise alone ends no search, and
        with some slack: on some devices a subnet is faster than a smaller one.
        """
        return [
            bound.key
            for bound in self.bounds
            if bound.least_excess(largest if bound.is_lower else smallest)
            > (SLACK if bound.cost.startswith("latency") else 0)
        ]

    def nearest_miss(self, candidates: Sequence[Priced]) -> tuple[int, str]:
        """The place of the candidate that comes closest to meeting all bounds, and what it and the
        best for each bound miss, in words."""
        excesses = [self.violations(candidate) for candidate in candidates]
        nearest = min(range(len(candidates)), key=lambda place: max(excesses[place].values()))
        best = {b.key: min(excess[b.key] for excess in excesses) for b in self.bounds}
        notes = [
            f"budget.{b.key}={b.text(b.limit)}: best seen {b.text(b.at(best[b.key]))}, nearest "
            f"subnet {b.text(b.at(excess))} (missed by {excess:.1%})"
            for b in self.bounds
            if (excess := excesses[nearest][b.key]) > 0
        ]
        if max(best.values()) <= 0:
            notes.append("each can be met, but not all together")
        if any(bound.cost.startswith("latency") for bound in self.bounds):
            notes.append("a latency is the worse end of its 95 % interval")
        return nearest, "; ".join(notes)


def figure(cost: str, value: float) -> str:
    """A cost as text: parameters in full, others to four digits."""
    return f"{value:,.0f}" if cost == "params" else f"{value:.4g}"
