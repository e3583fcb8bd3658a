import math
from pathlib import Path

import pytest

from nas.report.sampling_section import WORDS
from search_spaces.cell import CellSpace
from supernet.sampling.example_importance import ImportanceData
from supernet.sampling.examples import UniformData
from supernet.sampling.path_importance import FactorisedPaths
from supernet.sampling.paths import UniformPaths
from supernet.sampling.published import PublishedData, PublishedPaths
from tests.report.made_up_run import PATHS, importance_metrics, write_json, write_lines
from tests.report.pages import figure, prose, written


def test_sampling_curves_hold_every_logged_value_and_no_other_key(run: Path) -> None:
    other = {"kind": "eval", "step": 3, "epoch": 3, "path_gain": 7.0, "variance_ratio": 7.0}
    write_lines(run / "metrics.jsonl", [*importance_metrics(), other])
    page = written(run)
    for name, keys in {
        "sampling_gain": ["path_gain", "data_gain"],
        "sampling_ess": ["path_ess", "data_ess"],
        "sampling_strength": ["path_strength", "data_share"],
        "sampling_variance": ["variance_ratio"],
    }.items():
        traces = figure(page, name)
        assert [trace["name"] for trace in traces] == keys
        for trace in traces:
            own = [record for record in importance_metrics() if trace["name"] in record]
            assert trace["y"] == [record[trace["name"]] for record in own]
            assert trace["x"] == [record["epoch"] for record in own]
    assert "least_probability" not in page
    assert "sampling_least" not in page


def test_what_published_samplers_log_is_drawn_alone(run: Path) -> None:
    line = {"kind": "train", "step": 5, "epoch": 1, "least_probability": 0.125, "data_ess": 0.75}
    write_lines(run / "metrics.jsonl", [line])
    page = written(run)
    assert figure(page, "sampling_least")[0]["y"] == [0.125]
    assert [trace["name"] for trace in figure(page, "sampling_ess")] == ["data_ess"]
    assert "least likely option of any choice. Last: 0.125 at step 5" in prose(page)
    assert "sampling_gain" not in page


def test_the_measured_variance_has_markers_and_its_median(run: Path) -> None:
    write_lines(run / "metrics.jsonl", importance_metrics())
    page = written(run)
    assert figure(page, "sampling_variance")[0]["mode"] == "lines+markers"
    assert "Median of 3: 0.750. Last: 0.750 at step 120" in prose(page)


def test_every_figure_that_a_sampler_logs_has_words() -> None:
    space = CellSpace()
    for sampler in (
        *(make(space=space) for make in (UniformPaths, FactorisedPaths)),
        PublishedPaths(space=space),
        *(make(num_examples=4) for make in (UniformData, ImportanceData, PublishedData)),
    ):
        assert sampler.figures().keys() <= WORDS.keys(), sampler


def test_probabilities_are_coloured_by_how_far_they_are_from_uniform(run: Path) -> None:
    write_json(run / "paths.json", PATHS)
    page = written(run)
    (heat,) = figure(page, "probabilities")
    assert heat["y"] == ["embed_dim", "depth"]
    assert heat["z"][0] == pytest.approx([math.log2(0.75), math.log2(0.75), math.log2(1.5)])
    assert heat["z"][1] == [0, 0, None]
    assert heat["zmin"] == -heat["zmax"]  # so that uniform has the middle colour
    assert heat["text"] == [
        ["32: 25.0&nbsp;%", "48: 25.0&nbsp;%", "64: 50.0&nbsp;%"],
        ["1: 50.0&nbsp;%", "2: 50.0&nbsp;%", ""],
    ]
    assert "at epoch 12" in prose(page)


def test_an_option_that_is_never_drawn_has_the_end_of_the_scale(run: Path) -> None:
    write_json(run / "paths.json", {**PATHS, "probabilities": {"depth": {"1": 0.0, "2": 1.0}}})
    (heat,) = figure(written(run), "probabilities")
    assert heat["z"] == [[heat["zmin"], 1.0]]
    assert math.isfinite(heat["zmin"])
