from pathlib import Path

from nas.report.draw import MOST_POINTS
from tests.report.made_up_run import metrics, write_lines
from tests.report.pages import figure, prose, written


def test_training_curves_hold_every_record_and_every_probe(run: Path) -> None:
    page = written(run)
    losses = [record["loss"] for record in metrics() if record["kind"] == "train"]
    assert figure(page, "loss")[0]["y"] == losses
    probes = {trace["name"]: len(trace["y"]) for trace in figure(page, "probes")}
    assert probes == {"smallest": 30, "largest": 30, "wide_and_shallow": 30}
    words = prose(page)
    assert "1,020 steps. Median of 4,000 examples a second." in words
    assert "evaluated on val, 360 examples" in words


def test_a_long_training_curve_is_thinned(run: Path) -> None:
    lines = [{"kind": "train", "step": i, "epoch": i, "loss": 1.0, "lr": 0.1} for i in range(9000)]
    write_lines(run / "metrics.jsonl", lines)
    assert MOST_POINTS / 2 <= len(figure(written(run), "loss")[0]["y"]) <= MOST_POINTS


def test_lines_of_another_kind_are_passed_over(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [*metrics(), {"kind": "note", "text": "hello"}])
    assert "1,020 steps" in prose(written(run))
