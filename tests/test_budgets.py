"""Bounds: how far figures are from them, and what is said of it."""

from itertools import product

import pytest

from nas.budgets import COSTS, Budgets
from tests.helpers.devices import costs_of

MEASURED = costs_of(0.5, low=0.4, high=0.6, params=20)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"params": 90.0, "memory_mib": 2.0}, 0.0),
        ({"params": 110.0, "memory_mib": 2.0}, 0.1),
        ({"params": 50.0, "memory_mib": 3.0}, 0.25 + 0.5),
        ({"memory_mib": 1.0}, 0.0),
    ],
)
def test_a_total_excess_is_the_sum_of_relative_ones(
    figures: dict[str, float], expected: float
) -> None:
    budgets = Budgets.of({"params": 100, "min_params": 200 / 3, "memory_mib": 2})
    assert budgets.total_excess(figures) == pytest.approx(expected)


def test_no_bound_is_met_by_chance_of_rounding() -> None:
    for params, limit in product((1, 3, 7), (1, 3, 7)):
        upper, lower = Budgets.of({"params": limit}), Budgets.of({"min_params": limit})
        assert (upper.total_excess({"params": params}) == 0) == (params <= limit)
        assert (lower.total_excess({"params": params}) == 0) == (params >= limit)


def test_every_budget_has_a_figure_by_its_definition() -> None:
    expected = {
        "latency_ms": 2.5,
        "latency_of_largest": 0.5,
        "params": 20,
        "params_of_largest": 20 / 80,  # of the smaller file on both sides
        "memory_mib": 1.0,
        "memory_of_largest": 0.5,
    }
    assert MEASURED.figures() == pytest.approx(expected)
    assert {key: MEASURED.figure(key) for key in COSTS} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "judged"),
    [
        ("latency_ms", 3.0),  # 5 * 0.6, the upper end of the interval
        ("latency_of_largest", 0.6),
        ("params", 20),
        ("params_of_largest", 0.25),
        ("memory_mib", 1.0),
        ("memory_of_largest", 0.5),
    ],
)
def test_a_violation_is_the_excess_as_a_fraction_of_the_bound(key: str, judged: float) -> None:
    for factor, excess in ((0.5, 1.0), (0.99, 1 / 0.99 - 1), (1.01, 1 / 1.01 - 1), (4, -0.75)):
        violations = Budgets.of({key: factor * judged}).violations(MEASURED)
        assert violations == pytest.approx({key: excess})


@pytest.mark.parametrize(
    ("key", "judged"),
    [("min_latency_ms", 2.0), ("min_latency_of_largest", 0.4), ("min_params", 20)],
)
def test_a_lower_bound_is_violated_from_below_by_the_other_end(key: str, judged: float) -> None:
    for factor in (0.5, 0.99, 1.01, 4):
        bound = factor * judged
        violations = Budgets.of({key: bound}).violations(MEASURED)
        assert violations == pytest.approx({key: 1 - judged / bound})


def test_a_window_holds_what_lies_between_its_ends() -> None:
    window = Budgets.of({"min_params": 15, "params": 25})
    for params, met in ((14, False), (15, True), (25, True), (26, False)):
        costs = costs_of(0.5, low=0.4, high=0.6, params=params)
        assert window.admit(costs) is met
        assert all(bound.is_met(costs) for bound in window) is met


def test_a_bound_is_out_of_reach_only_if_the_whole_interval_exceeds_it() -> None:
    bounds = {"latency_of_largest": 0.36, "latency_ms": 2.1, "params": 19, "memory_mib": 1.1}
    assert Budgets.of(bounds).out_of_reach(MEASURED, MEASURED) == ["latency_of_largest", "params"]
    large = costs_of(1.0, low=0.9, high=1.1, params=100)
    bounds = {"min_latency_of_largest": 1.05, "min_latency_ms": 6.2, "min_params": 101}
    assert Budgets.of(bounds).out_of_reach(MEASURED, large) == ["min_latency_ms", "min_params"]


def test_some_subnet_may_be_a_little_faster_than_the_smallest() -> None:
    near = Budgets.of({"latency_of_largest": 0.37, "latency_ms": 1.9})  # 8 and 5 % below the end
    assert near.out_of_reach(MEASURED, MEASURED) == []
    assert max(near.violations(MEASURED).values()) > 0


def test_a_latency_straddles_a_bound_that_lies_within_its_interval() -> None:
    inside = {"latency_of_largest": 0.5, "latency_ms": 2.9, "min_latency_of_largest": 0.41}
    outside = {"latency_of_largest": 0.61, "latency_ms": 1.9, "min_latency_ms": 1.8, "params": 19}
    assert Budgets.of(inside).straddled(MEASURED) == list(inside)
    assert Budgets.of(outside).straddled(MEASURED) == []


def test_the_nearest_miss_is_named_with_its_budget_and_amount() -> None:
    candidates = [
        costs_of(0.5, low=0.4, high=0.6, params=20),
        costs_of(0.3, low=0.2, high=0.4, params=90),
    ]
    place, words = Budgets.of({"params": 10, "latency_of_largest": 0.7}).nearest_miss(candidates)
    assert "budget.params=10: best seen 20, nearest subnet 20 (missed by 100.0%)" in words
    assert place == 0
    place, words = Budgets.of({"min_params": 100}).nearest_miss(candidates)
    assert "budget.min_params=100: best seen 90, nearest subnet 90 (missed by 10.0%)" in words
    assert place == 1
    _, words = Budgets.of({"params": 30, "latency_of_largest": 0.5}).nearest_miss(candidates)
    assert "each can be met, but not all together" in words
    assert "budget.latency_of_largest=0.5: best seen 0.4, nearest subnet 0.6" in words
