from dataclasses import replace
from pathlib import Path

import pytest

from nas.report.choice_section import seconds
from nas.results import Seconds
from tests.report.made_up import SECONDS, SMALLEST, measured, searched
from tests.report.made_up_run import measured_line, write_lines
from tests.report.pages import (
    change_search,
    drawing,
    figure,
    headings,
    part_of,
    prose,
    rows,
    written,
)

TITLE = "How the subnet was chosen"


def test_finalists_stand_with_what_the_search_had_known_of_them(run: Path) -> None:
    page = written(run)
    found = rows(page, TITLE)
    names = ["finalist 1", "finalist 2, chosen", "chosen, verification 1"]
    assert [row["measured"] for row in found] == names
    off = ["+25.0&nbsp;%", "-5.0&nbsp;%", "+2.0&nbsp;%"]
    assert [row["difference"] for row in found] == off
    assert [row["budgets"] for row in found] == ["missed", "met", "met"]
    traces, layout = drawing(page, "finalists")
    finalists = searched().finalists
    fresh, before = traces
    assert fresh["y"] == names
    assert fresh["x"][:2] == pytest.approx([one.again.ratio for one in finalists])
    assert before["x"][:2] == pytest.approx([one.searched_ratio for one in finalists])
    high = [one.again.ratio_high - one.again.ratio for one in finalists]
    assert fresh["error_x"]["array"][:2] == pytest.approx(high)
    assert [shape["x0"] for shape in layout["shapes"]] == [0.6]


def test_a_bound_in_milliseconds_stands_among_ratios(run: Path) -> None:
    change_search(run, budget={"latency_ms": 2.6})
    (line,) = drawing(written(run), "finalists")[1]["shapes"]
    assert line["x0"] == pytest.approx(0.5)  # the largest subnet takes 5.2 ms


def test_the_seconds_of_a_search_add_up(run: Path) -> None:
    page = written(run)
    spent = {"scores on val": 20.0, "latency and memory": 44.0, "proposals": 6.0}
    assert seconds(SECONDS) == {**spent, "everything else": 10.0}
    assert sum(trace["x"][0] for trace in figure(page, "seconds")) == SECONDS.total
    words = prose(page)
    assert "took 80.0 s" in words
    assert "took 80.0 % of it; the other 20.0 %, 16.0 s, is overhead" in words
    assert "ended by search.patience" in words
    assert "ranged over 6.2 % of their median" in words


def test_rounded_seconds_are_never_negative(run: Path) -> None:
    found = change_search(run, seconds=Seconds(total=0.0, scores=0.0, costs=0.01, proposals=0.0))
    assert seconds(found.seconds)["everything else"] == 0.0
    assert "took 100.0 % of it" in prose(written(run))


def test_passes_that_were_left_out_are_counted_on_the_searchs_device_alone(run: Path) -> None:
    line = measured_line(SMALLEST, measured(0.5))
    write_lines(run / "latency.jsonl", [line, line, {**line, "digest": "c3d4"}])
    assert "50 pairs of passes were timed on the target in all; 6 more were left out" in prose(
        written(run)
    )


def test_a_search_that_has_not_ended_has_no_finalists(run: Path) -> None:
    (run / "search.json").unlink()
    page = written(run)
    assert "No search has ended yet" in part_of(page, TITLE)
    assert "Predictors" not in headings(page)


def test_a_search_whose_candidates_all_missed_measured_none_again(run: Path) -> None:
    found = searched()
    change_search(run, chosen=None, finalists=(), verified=())
    assert "No subnet was measured again" in part_of(written(run), TITLE)
    change_search(run, finalists=found.finalists[:1])
    assert [row["measured"] for row in rows(written(run), TITLE)] == ["finalist 1"]


def test_a_finalist_that_was_not_chosen_is_not_called_so(run: Path) -> None:
    other = replace(searched().finalists[0], met=True)
    change_search(run, finalists=(other,), verified=())
    assert [row["measured"] for row in rows(written(run), TITLE)] == ["finalist 1"]
