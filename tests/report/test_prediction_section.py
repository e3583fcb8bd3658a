from dataclasses import replace
from pathlib import Path

from tests.report.made_up import prediction, searched
from tests.report.made_up_run import as_regression
from tests.report.pages import change_search, drawing, headings, rows, written


def test_predictors_are_listed_with_their_errors_near_the_bounds(run: Path) -> None:
    score, latency = map(list, (row.values() for row in rows(written(run), "Predictors")))
    assert score == [
        *("val top-1", "svr", "2", "0.34&nbsp;points", "1.0&nbsp;%", "0.750"),
        *("9", "0.20&nbsp;points", "0.5&nbsp;%", "\u2013"),
    ]
    assert latency[1:4] == ["gaussian_process", "2", "0.00340"]
    change_search(run, predictions={})
    assert "Predictors" not in headings(written(run))


def test_errors_of_a_score_that_is_no_fraction_are_no_points(run: Path) -> None:
    as_regression(run)
    score, _ = rows(written(run), "Predictors")
    assert score["predictor of"] == "val mean absolute error (lower is better)"
    assert score["MAE"] == "0.00340"


def test_predictions_are_drawn_against_measurements_with_bounds_on_both_axes(run: Path) -> None:
    page = written(run)
    traces, layout = drawing(page, "predicted_latency_of_largest")
    points = next(trace for trace in traces if trace["mode"] == "markers")
    assert (points["x"], points["y"]) == ([0.5, 0.625], [0.75, 0.375])
    lines = [(shape["x0"], shape["y0"]) for shape in layout["shapes"]]
    assert lines == [(0.6, 0), (0, 0.6)]  # across the whole plot in the other direction
    assert "shapes" not in drawing(page, "predicted_score")[1]
    assert layout["xaxis"]["range"] == layout["yaxis"]["range"]


def test_predictions_of_nothing_are_listed_but_not_drawn(run: Path) -> None:
    none = replace(prediction("svr", [], []), mae=0.0, mape=None, tau=None)
    found = {**searched().predictions, "score": none}
    change_search(run, predictions=found)
    page = written(run)
    assert rows(page, "Predictors")[0]["MAPE"] == "\u2013"
    assert '"predicted_score"' not in page
