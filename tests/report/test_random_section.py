from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from nas.report.random_section import NONE, expected_best
from tests.report.made_up import BUDGETS, ends, proposed
from tests.report.made_up_run import write_lines
from tests.report.pages import change_search, figure, named, prose, written


@pytest.mark.parametrize(
    "values",
    [[0.9], [NONE], [0.8, 0.9, 0.7], [0.5, NONE, 0.75, 0.5, NONE, 0.25], [NONE, 0.5, NONE],
     [-3.0, -1.5, NONE, -2.0]],
)  # fmt: skip
def test_the_expected_best_of_random_draws_is_the_mean_over_all_subsets(
    values: list[float],
) -> None:
    found = expected_best(values)
    assert len(found) == len(values)
    for n, one in enumerate(found, 1):
        subsets = list(combinations(values, n))
        bests = [best for subset in subsets if (best := max(subset)) != NONE]
        assert one == (pytest.approx(sum(bests) / len(bests)) if bests else NONE)


def test_a_search_is_held_against_its_own_random_draws(run: Path) -> None:
    page = written(run)
    traces = named(figure(page, "progress"))
    best, running = None, []
    for one in proposed():  # without the smallest and the largest
        if BUDGETS.admit(one.costs):
            best = one.score.value if best is None else max(best, one.score.value)
        running.append(best)
    assert traces["this search"]["y"] == running
    assert traces["this search"]["x"] == list(range(1, 61))
    expected = traces["random search, expected"]
    assert expected["x"][-1] == 20
    assert expected["y"][-1] == running[19]
    assert expected["y"] == sorted(expected["y"])
    assert traces["best of all random draws"]["x"] == [20, 60]
    assert traces["best of all random draws"]["y"] == [running[19]] * 2
    assert "20 of the subnets are the search's own random draws" in prose(page)


def test_a_search_without_random_draws_says_so(run: Path) -> None:
    asked = [replace(one, asked_by=replace(one.asked_by, origin="sampler")) for one in proposed()]
    change_search(run, candidates=(*ends(), *asked))
    page = written(run)
    assert [trace["name"] for trace in figure(page, "progress")] == ["this search"]
    assert "No subnet was drawn at random" in prose(page)
    change_search(run, budget={"params": 1.0})
    assert "No proposed subnet meets the budgets" in prose(written(run))


def test_subnets_of_earlier_searches_are_counted_as_such(run: Path) -> None:
    assert "earlier searches" not in prose(written(run))
    asked = [replace(one, asked_by=replace(one.asked_by, study="x")) for one in proposed()[:7]]
    write_lines(run / "candidates.jsonl", [*ends(), *asked, *proposed()[7:]])
    assert "7 were known from earlier searches" in prose(written(run))


def test_many_random_draws_do_not_overflow() -> None:
    found = expected_best([i / 1200 for i in range(1200)])
    assert found[0] == pytest.approx(sum(range(1200)) / 1200 / 1200)
    assert found[-1] == 1199 / 1200


def test_random_draws_that_all_break_the_budgets_have_no_line(run: Path) -> None:
    costly = replace(proposed()[0].costs, memory_of_largest=9.0)
    first = [replace(one, costs=costly) for one in proposed()[:20]]
    change_search(run, candidates=(*first, *proposed()[20:]), budget={"memory_of_largest": 1.0})
    page = written(run)
    assert [trace["name"] for trace in figure(page, "progress")] == ["this search"]
    assert "so random search has no value here" in prose(page)
