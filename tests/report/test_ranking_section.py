from dataclasses import replace
from pathlib import Path

import pytest

from nas.rank import correlations
from nas.report import ranking_section
from nas.report.draw import MOST_POINTS
from tests.report.made_up import ranked
from tests.report.made_up_run import write_json
from tests.report.pages import drawing, figure, prose, rows, written


def test_ranked_architectures_stand_at_their_mean_prediction(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    (points,) = figure(written(run), "ranking")
    assert points["x"] == pytest.approx([0.51, 0.54, 0.57, 0.60, 0.63])
    assert points["y"] == pytest.approx([0.90, 0.91, 0.92, 0.93, 0.94])
    assert points["marker"]["color"] == [1000, 2000, 3000, 4000, 5000]
    assert "51.0&nbsp;%, by checkpoint 50.0&nbsp;%, 52.0&nbsp;%" in points["hovertext"][0]


def test_the_ranking_says_what_was_compared(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    words = prose(written(run))
    assert "5 architectures. True score: val top-1 of subnets trained alone for 7 epochs" in words
    assert "top-1 on 360 val examples" in words
    assert "ema weights, the mean over 2 checkpoints (step 9, 10)" in words
    assert "over 300 draws" in words


def test_what_is_no_fraction_is_no_percentage(run: Path) -> None:
    found = replace(ranked(), predicted="negated loss", predicted_is_fraction=False)
    write_json(run / "rank.json", found)
    page = written(run)
    assert "negated loss on 360 val examples" in prose(page)
    traces, layout = drawing(page, "ranking")
    assert "predicted 0.510, by" in traces[0]["hovertext"][0]
    assert layout["xaxis"]["tickformat"] == "~g"
    assert layout["yaxis"]["tickformat"] == ".1%"


def test_the_table_of_ranks_has_each_figure_with_interval_and_spread(run: Path) -> None:
    write_json(run / "rank.json", ranked())
    found = rows(written(run), "Ranking")
    assert len(found) == len(correlations.FIGURES)
    assert list(found[0].values())[1:] == [
        *("0.625 [-0.125, 0.875]", "0.062", "0.500 [0.375, 0.750]", "\u2013")
    ]
    assert list(found[-1].values())[1:4] == ["0.6 [-0.1, 0.9]", "0.1", "0.6 [-0.1, 0.9]"]


def test_every_figure_of_a_ranking_has_words() -> None:
    assert tuple(ranking_section.FIGURES) == correlations.FIGURES


def test_of_many_ranked_architectures_some_are_drawn(run: Path) -> None:
    write_json(run / "rank.json", replace(ranked(), archs=ranked().archs * 1000))
    page = written(run)
    drawn = len(figure(page, "ranking")[0]["x"])
    assert MOST_POINTS / 2 <= drawn <= MOST_POINTS
    assert f"{drawn:,} of 5,000 are drawn" in prose(page)
