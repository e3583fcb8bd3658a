import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas.records import to_json
from nas.report.stage import write_report
from nas.results import RuntimeLatency
from tests.report.made_up import CARD, best, exported, in_runtime, proposed, ranked, searched
from tests.report.made_up_run import (
    CONFIG,
    PATHS,
    Record,
    as_regression,
    importance_metrics,
    measured_line,
    metrics,
    write_json,
    write_lines,
)
from tests.report.pages import (
    EVIL,
    Page,
    change_export,
    figure,
    headings,
    part_of,
    prose,
    written,
)


def test_the_page_loads_nothing_from_anywhere(run: Path) -> None:
    page = Page()
    page.feed(written(run))
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "a"})
    assert not [attrs for _, attrs in page.tags if {"src", "href", "srcset"} & attrs.keys()]
    policies = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policies[0] is not None
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0]


def test_plotly_is_in_the_page_exactly_once(run: Path) -> None:
    assert written(run).count("* plotly.js v") == 1


def test_the_same_files_give_the_same_page(run: Path) -> None:
    assert written(run) == written(run)


def make_evil(run: Path) -> None:
    """Puts a hostile text wherever a file may hold one."""
    config = CONFIG.replace("runs/digits", json.dumps(EVIL)).replace("digits", json.dumps(EVIL))
    (run / "config.yaml").write_text(config)
    card = replace(CARD, name=EVIL, device=EVIL, runtime=EVIL)
    asker = replace(best().asked_by, study=EVIL, origin=EVIL)
    judged = [replace(one, asked_by=asker) for one in proposed()]
    judged = [replace(one, score=replace(one.score, split=EVIL)) for one in judged]
    search = replace(searched(), card=card, candidates=tuple(judged), study=EVIL)
    predictions = {name: replace(one, kind=EVIL) for name, one in search.predictions.items()}
    search = replace(search, strategy=EVIL, objective=EVIL, ended_by=EVIL)
    write_json(run / "search.json", replace(search, predictions=predictions))
    places = (in_runtime(EVIL, 0.5), RuntimeLatency(EVIL, unavailable=EVIL))
    card_changes = {"card": card, "runtimes": places, "study": EVIL, "command": EVIL}
    change_export(run, commit=EVIL, **card_changes)
    known = best().costs.measurement
    write_lines(run / "latency.jsonl", [measured_line(best().arch, known, card=to_json(card))])
    probe = {"kind": "eval", "probe": EVIL, "epoch": 1, "step": 1, "top1": 0.5, "split": EVIL}
    write_lines(run / "metrics.jsonl", [*metrics(), *importance_metrics(), probe])
    settings: Record = dict.fromkeys(("weights", "batch_norm", "resamples"), EVIL)
    write_json(run / "rank.json", replace(ranked(), settings=settings, truth=EVIL, predicted=EVIL))
    write_json(run / "paths.json", {"epoch": 1, "probabilities": {EVIL: {EVIL: 1.0}}})


def test_strings_of_a_stranger_stay_text(run: Path) -> None:
    make_evil(run)
    page = written(run)
    assert EVIL not in page
    body = page.partition("</head>")[2]
    assert "<img" not in body
    assert body.count("<script") == body.count("Plotly.newPlot(") > 12
    assert prose(page).count("alert(1)") > 20
    # plotly reads tags in labels, so what reaches it must be escaped as well
    for name in ("latency_ms", "probes", "runtimes", "ranking", "probabilities"):
        labels = json.dumps(figure(page, name))
        assert "alert(1)" in labels or name == "ranking"
        assert "<img" not in labels
        assert "<script" not in labels


def test_interpolations_of_a_config_are_not_resolved(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_READER", "hunter2")
    secret = "${oc.env:SECRET_OF_THE_READER}"
    (run / "config.yaml").write_text(CONFIG.replace("name: digits", f'name: "{secret}"'))
    page = written(run)
    assert "hunter2" not in page
    assert secret in prose(page)


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("metrics.jsonl", "nas train run=runs/digits"),
        ("search.json", "nas search run=runs/digits"),
        ("latency.jsonl", "nas measure run=runs/digits"),
        ("subnet/card.json", "nas export run=runs/digits"),
    ],
)
def test_a_missing_file_is_named_by_the_command_that_makes_it(
    run: Path, missing: str, command: str
) -> None:
    # without the export's own command, which the page quotes
    change_export(run, command="")
    assert command not in prose(written(run))
    (run / missing).unlink()
    assert command in prose(written(run))


def test_a_folder_with_nothing_but_its_options_gives_a_page_of_what_to_run(run: Path) -> None:
    for path in (*run.glob("*.json*"), run / "subnet" / "card.json"):
        path.unlink()
    words = prose(written(run))
    for stage in ("train", "measure", "search"):
        assert f"nas {stage} run=runs/digits" in words
    assert not {"Sampling", "Ranking", "Predictors"} & set(headings(written(run)))


def test_what_is_no_run_folder_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run must be a run folder"):
        write_report(run / "config.yaml")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"run must be a run folder, .*other"):
        write_report(tmp_path / "other")


def test_a_search_by_error_reads_with_lower_is_better(run: Path) -> None:
    as_regression(run)
    page = written(run)
    assert "test mean absolute error, 360 examples" in prose(page)
    assert part_of(page, "The chosen subnet").count("%") == part_of(
        page, "The chosen subnet"
    ).count("95&nbsp;%")  # of intervals alone
    traces = {trace["name"]: trace for trace in figure(page, "latency_ms")}
    front = traces["Pareto front"]["y"]
    assert len(front) > 3
    assert front == sorted(front, reverse=True)  # what costs more errs less
    steps = {trace["name"]: trace["y"] for trace in figure(page, "progress")}
    assert steps["this search"] == sorted(steps["this search"], reverse=True)
    expected = steps["random search, expected"]
    assert expected == pytest.approx(sorted(expected, reverse=True))
    assert "val mean absolute error (lower is better)" in page
    assert {trace["name"] for trace in figure(page, "probes")} >= {"smallest", "largest"}


def test_a_uniform_run_that_is_not_ranked_has_neither_section(run: Path) -> None:
    assert not {"Sampling", "Ranking"} & set(headings(written(run)))
    write_lines(run / "metrics.jsonl", [*metrics(), *importance_metrics()])
    write_json(run / "rank.json", ranked())
    write_json(run / "paths.json", PATHS)
    found = headings(written(run))
    place = found.index("Training")
    assert found[place : place + 3] == ["Training", "Sampling", "Ranking"]


def test_an_export_of_a_file_alone_is_shown_without_a_search(run: Path) -> None:
    for name in ("search.json", "candidates.jsonl"):
        (run / name).unlink()
    change_export(run, study=None, command="nas export run=x arch=a.json")
    page = written(run)
    assert "96.94%" in part_of(page, "The chosen subnet")
    assert f"{exported(best()).costs.counts.params:,}" in part_of(page, "Parameters: three counts")
    assert "<svg" in part_of(page, "The chosen architecture")
