import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.records import Candidate
from nas.report.pareto_section import front
from tests.report.made_up import (
    BUDGETS,
    LARGEST,
    MAE,
    TOP1,
    candidate,
    ends,
    proposed,
    scored,
    within,
)
from tests.report.pages import change_search, drawing, figure, named, prose, written

COSTS = ("latency_ms", "params")


@pytest.mark.parametrize("cost", COSTS)
def test_every_candidate_is_in_both_figures(run: Path, cost: str) -> None:
    drawn = [
        point
        for trace in figure(written(run), cost)
        if trace["name"] in ("meets budgets", "breaks a budget")
        for point in zip(trace["x"], trace["y"], strict=True)
    ]
    shown = [*ends(), *proposed()]
    assert sorted(drawn) == sorted((one.costs.figure(cost), one.score.value) for one in shown)


@pytest.mark.parametrize("cost", COSTS)
def test_candidates_that_break_a_budget_are_grey_and_off_the_front(run: Path, cost: str) -> None:
    traces = named(figure(written(run), cost))
    met = within([*ends(), *proposed()])
    assert 0 < len(met) < len(proposed())
    assert sorted(traces["meets budgets"]["x"]) == sorted(one.costs.figure(cost) for one in met)
    points = {(one.costs.figure(cost), one.score.value) for one in met}
    line = traces["Pareto front"]
    assert set(zip(line["x"], line["y"], strict=True)) == {
        (x, y)
        for x, y in points
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
    }


@pytest.mark.parametrize("metric", [TOP1, MAE])
@pytest.mark.parametrize("seed", range(10))
def test_a_front_holds_the_points_that_no_other_of_the_plane_dominates(
    seed: int, metric: object
) -> None:
    generator = random.Random(seed)
    # few distinct values, so that ties and repeated points occur
    judged: list[Candidate[Any]] = []
    for _ in range(25):
        one = candidate(LARGEST, 0)
        known = replace(one.costs.measurement, latency_ms=float(generator.randint(1, 7)))
        known = replace(known, ratio=known.latency_ms / 7)
        params = replace(one.costs.counts, stored_factorised=generator.randint(1, 3))
        costs = replace(one.costs, measurement=known, counts=params)
        score = scored(generator.randint(0, 6) / 10, TOP1 if metric is TOP1 else MAE)
        judged.append(replace(one, costs=costs, score=score))
    points = {(one.costs.figure("latency_ms"), one.score.worth) for one in judged}
    expected = sorted(
        (x, y)
        for x, y in points
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
    )
    line = front(judged, "latency_ms", "front", "blue", "solid")
    worths = [y if metric is TOP1 else -y for y in line.y]
    assert list(zip(line.x, worths, strict=True)) == expected


def test_a_latency_meets_its_bound_by_the_upper_end_of_its_interval(run: Path) -> None:
    limit = 1.005 * proposed()[0].costs.measurement.ratio  # the interval reaches to 1.015
    found = change_search(run, budget={"latency_of_largest": limit})
    ratios = [one.costs.measurement.ratio for one in found.candidates]
    met = named(figure(written(run), "latency_ms"))["meets budgets"]["x"]
    assert len(met) == sum(1.015 * ratio <= limit for ratio in ratios)
    assert len(met) < sum(ratio <= limit for ratio in ratios)


def test_a_relative_bound_stands_where_the_relative_figure_equals_it(run: Path) -> None:
    change_search(run, budget={"latency_ms": 2.0, "latency_of_largest": 0.5})
    shapes = drawing(written(run), "latency_ms")[1]["shapes"]
    assert [shape["x0"] for shape in shapes] == pytest.approx([2.0, 0.5 * 5.2])


def test_a_window_has_both_its_bounds_and_is_shaded_between(run: Path) -> None:
    change_search(run, budget={"min_latency_ms": 2.0, "latency_of_largest": 0.5})
    _, layout = drawing(written(run), "latency_ms")
    (band,) = [shape for shape in layout["shapes"] if shape["type"] == "rect"]
    places = [shape["x0"] for shape in layout["shapes"] if shape["type"] == "line"]
    assert places == pytest.approx([2.0, 0.5 * 5.2])
    assert [band["x0"], band["x1"]] == pytest.approx(places)
    labels = [note["text"] for note in layout["annotations"]]
    assert labels == ["latency_ms \u2265 2.00", "latency_of_largest \u2264 0.500"]
    change_search(run, budget={"latency_of_largest": 0.5})
    shapes = drawing(written(run), "latency_ms")[1]["shapes"]
    assert [shape["type"] for shape in shapes] == ["line"]


def test_a_bound_far_beyond_every_point_is_only_named(run: Path) -> None:
    change_search(run, budget={"latency_ms": 500.0})
    _, layout = drawing(written(run), "latency_ms")
    assert "shapes" not in layout
    assert layout["xaxis"]["range"][1] < 10
    assert layout["annotations"][0]["text"] == "latency_ms \u2264 500 \u2192"


def test_a_score_on_a_part_of_the_split_is_hollow_and_on_no_front(run: Path) -> None:
    first, *others = proposed()
    partial = replace(first, score=scored(1.0, complete=False, num_examples=64))
    change_search(run, candidates=(partial, *others))
    page = written(run)
    traces = named(figure(page, "params"))
    assert traces["part of val only"]["y"] == [1.0]
    assert traces["part of val only"]["marker"]["symbol"].endswith("-open")
    others_of = [trace for name, trace in traces.items() if name != "part of val only"]
    assert all(1.0 not in trace["y"] for trace in others_of)
    assert "Evaluated on the first of these examples alone: 1;" in prose(page)


def test_the_caption_counts_what_meets_the_budgets(run: Path) -> None:
    words = prose(written(run))
    assert "62 architectures were evaluated so far" in words
    assert "The last search has 72 trials" in words
    met = len(within([*ends(), *proposed()]))
    assert f"latency_of_largest \u2264 0.600, params \u2264 60,000; {met} candidates meet" in words
    assert all(f"budget.{bound.key}" not in words for bound in BUDGETS)


def test_hovering_over_a_candidate_tells_all_its_figures(run: Path) -> None:
    one = proposed()[0]
    told = "".join(
        text
        for trace in figure(written(run), "params")
        for text in trace.get("hovertext", [])
        if f"trial {one.asked_by.trial} of" in text
    )
    for part in ("embed_dim", "95&nbsp;% interval", "factorised", "MiB", "proposed by start"):
        assert part in told
