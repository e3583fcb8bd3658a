"""Judged architectures as values: which is preferred, which is on the front, and their JSON."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from nas.records import (
    Asker,
    Candidate,
    Conditions,
    Score,
    from_json,
    pareto_front,
    preference,
    to_json,
    too_few_examples,
)
from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import Space
from supernet.task import Metric
from tests.helpers.devices import costs_of

SPACE: Space[Any] = CellSpace()
TOP1 = Metric("top1", "top-1", higher_is_better=True, is_fraction=True)
MAE = Metric("mae", "mean absolute error", higher_is_better=False, is_fraction=False)


def point(
    value: float, ratio: float, params: int, *, metric: Metric = TOP1, complete: bool = True
) -> Candidate[CellArch]:
    """A candidate of such a score, latency and number of parameters."""
    return Candidate(
        arch=SPACE.sample(Random(params)),
        score=Score(metric, value, value, value, value, 1.0, "val", 100, complete),
        costs=costs_of(ratio, low=0.9 * ratio, high=1.1 * ratio, params=params),
        asked_by=Asker("study", 1, "start", "guided NSGAIISampler"),
        conditions=Conditions(7, "weights", "digest"),
    )


@pytest.mark.parametrize("metric", [TOP1, MAE])
def test_the_front_is_what_no_other_dominates(metric: Metric) -> None:
    generator = Random(0)
    sign = 1 if metric.higher_is_better else -1
    for _ in range(20):
        points = [
            point(
                generator.randrange(4) / 4,
                generator.randrange(1, 5) / 4,
                generator.randrange(1, 5),
                metric=metric,
            )
            for _ in range(generator.randrange(1, 25))
        ]

        def figures(one: Candidate[CellArch]) -> tuple[float, float, float]:
            return sign * one.score.value, -one.costs.measurement.ratio, -one.costs.counts.params

        def dominated(one: Candidate[CellArch], points: list[Candidate[CellArch]] = points) -> bool:
            return any(
                figures(other) != figures(one)
                and all(a >= b for a, b in zip(figures(other), figures(one), strict=True))
                for other in points
            )

        expected = sorted((p for p in points if not dominated(p)), key=preference)
        assert pareto_front(points) == expected


def test_no_front_has_a_subnet_that_was_judged_in_part() -> None:
    part, whole = point(0.9, 0.1, 1, complete=False), point(0.5, 0.1, 1)
    assert pareto_front([part, whole]) == [whole]
    assert pareto_front([part]) == []


@pytest.mark.parametrize("metric", [TOP1, MAE])
def test_a_front_narrower_than_its_best_interval_says_so(metric: Metric) -> None:
    best, other = point(0.5, 0.9, 2, metric=metric), point(0.4, 0.1, 1, metric=metric)
    for half, says in ((0.04, False), (0.06, True)):
        score = replace(best.score, low=0.5 - half, high=0.5 + half)
        said = too_few_examples([replace(best, score=score), other])
        assert bool(said) == says
        if says:
            wide, whole = metric.text(2 * half), metric.text(0.1)
            assert "100 examples of val hardly tell" in said
            assert f"interval is {wide} wide, the whole front {whole}" in said
    assert too_few_examples([best]) == ""


def test_the_better_is_preferred_and_of_equal_ones_the_cheaper() -> None:
    ranked = [point(0.9, 0.8, 9), point(0.5, 0.1, 7), point(0.5, 0.2, 1), point(0.5, 0.2, 2)]
    assert sorted([ranked[i] for i in (2, 0, 3, 1)], key=preference) == ranked
    errors = [point(0.5, 0.8, 9, metric=MAE), point(0.9, 0.1, 1, metric=MAE)]
    assert sorted([errors[1], errors[0]], key=preference) == errors


def test_a_candidate_is_the_same_after_its_json() -> None:
    candidate = point(1 / 3, 0.1, 12345)
    record = json.loads(json.dumps(to_json(candidate)))
    assert from_json(Candidate, record, SPACE, "here") == candidate
    other = {**record, "costs": {**record["costs"], "params_of_largest": "half"}}
    with pytest.raises(ValueError, match=r"there: costs\.params_of_largest: .* got 'half'"):
        from_json(Candidate, other, SPACE, "there")


def test_what_is_known_of_a_score_says_what_the_whole_split_may_reach() -> None:
    whole, part = point(0.5, 0.1, 1).score, point(0.5, 0.1, 1, complete=False).score
    part = replace(part, hope=0.7)
    assert [whole.may_reach(worth) for worth in (0.5, 0.6)] == [True, False]
    assert [part.may_reach(worth) for worth in (0.6, 0.7, 0.8)] == [True, True, False]
    error = replace(part, metric=MAE, hope=0.3)
    assert [error.may_reach(worth) for worth in (-0.3, -0.2)] == [True, False]
