import re
from dataclasses import replace
from pathlib import Path

from nas.results import Verdict
from tests.report.made_up import best, proposed
from tests.report.pages import change_export, change_search, part_of, prose, written


def test_the_header_gives_the_test_score_its_interval_and_budgets(run: Path) -> None:
    words = prose(written(run))
    assert "96.94%test top-1, 360 examples, 95 % interval 94.60%\u201398.30%largest 97.50%" in words
    assert re.search(r"latency_of_largest 0\.\d+, budget \u2264 0\.600: met", words)
    change_export(run, budgets=(Verdict("memory_mib", 1.0, 1.25, met=False),))
    assert "memory_mib 1.25 MiB, budget \u2264 1.00 MiB: broken" in prose(written(run))


def test_before_the_export_the_score_is_of_val(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    page = part_of(written(run), "The chosen subnet")
    assert f"<b>{best().score.value:.2%}</b><span>val top-1, 360 examples" in page
    assert "the test split is opened by export" in page


def test_a_search_without_a_feasible_subnet_says_what_it_saw(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    change_search(run, chosen=None, budget={"params": 100.0})
    words = prose(written(run))
    least = min(one.costs.counts.params for one in proposed())
    assert "No evaluated subnet meets every budget" in words
    assert f"budget.params=100: best seen {least:,}" in words


def test_what_was_exported_before_an_infeasible_search_stays(run: Path) -> None:
    change_search(run, chosen=None, budget={"params": 100.0})
    change_export(run, study=None)
    words = prose(written(run))
    assert "Exported before, or picked by hand:depth" in words
    assert "96.94%test top-1" in words


def test_a_lower_bound_is_named_with_its_sign_and_judged_by_the_worse_end(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    known = best().costs.measurement
    just_below = known.latency_ms * 0.99  # within the interval of 3 %
    budget = {"min_params": 1e9, "min_latency_ms": just_below, "latency_ms": 9.0}
    change_search(run, budget=budget)
    words = prose(written(run))
    assert "budget \u2265 1,000,000,000 parameters: broken" in words
    assert re.search(r"latency_ms [\d.]+ ms, budget \u2265 [\d.]+ ms: broken", words)
    assert "budget \u2264 9.00 ms: met" in words


def test_a_search_without_budgets_says_so(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    change_search(run, budget={})
    assert "No budget was set" in part_of(written(run), "The chosen subnet")
    change_search(run, chosen=None)
    assert "None is chosen yet" in part_of(written(run), "The chosen subnet")


def test_the_interval_of_a_tile_is_that_of_the_score(run: Path) -> None:
    (run / "subnet" / "card.json").unlink()
    change_search(run, chosen=replace(best(), score=replace(best().score, low=0.5, high=0.75)))
    assert "95 % interval 50.00%\u201375.00%" in prose(written(run))
