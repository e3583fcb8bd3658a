from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.made_up import best
from tests.report.pages import change_export, figure, part_of, prose, rows, written

TITLE = "What is measured is what ships"


def test_the_exported_subnet_is_compared_across_runtimes(run: Path) -> None:
    page = written(run)
    (bars,) = figure(page, "runtimes")
    assert bars["y"] == [
        *("known to the search (eager)", "exported, measured afresh (eager)"),
        *("exported, in eager", "exported, in onnxruntime"),
    ]
    known = best().costs.measurement
    expected = [0.5 * 5.2, known.latency_ms, 0.5 * 5.2, 0.25 * 5.2]
    assert bars["x"] == pytest.approx(expected)
    assert bars["error_x"]["array"][2:] == pytest.approx([0.02 * 2.6, 0.02 * 1.3])
    assert bars["error_x"]["arrayminus"][:2] == pytest.approx([0.0, 0.015 * known.latency_ms])
    words = prose(page)
    assert "cuda_graph needs a CUDA device, not cpu" in words
    off = 100 * (known.ratio / 0.5 - 1)
    assert f"the latency is {off:+.1f} % from what the search had known" in words
    names = [row["latency of the exported subnet"] for row in rows(page, TITLE)]
    assert len(names) == 5
    assert names[1] == "exported, measured afresh (eager)"


def test_memory_and_energy_stand_where_they_are_known(run: Path) -> None:
    page = part_of(written(run), TITLE)
    assert "growth of the resident set</dt><dd>7.50&nbsp;MiB" in page
    assert "energy an example" not in page
    costs = best().costs
    costs = replace(costs, measurement=replace(costs.measurement, energy_mj=12.5))
    change_export(run, costs=costs)
    assert "energy an example</dt><dd>12.5&nbsp;mJ" in written(run)


def test_a_table_of_another_machine_has_nothing_to_compare_with(run: Path) -> None:
    change_export(run, searched_ratio=None, runtimes=())
    page = written(run)
    (bars,) = figure(page, "runtimes")
    assert bars["y"] == ["exported, measured afresh (eager)"]
    assert "from what the search had known" not in part_of(page, TITLE)
    assert "The runtimes took turns" not in part_of(page, TITLE)
