from pathlib import Path
from random import Random

import pytest

from nas.__main__ import main
from nas.budgets import Budgets
from nas.measure.bench import Session
from nas.measure.feasibility import budget_table, median_arch
from nas.measure.meter import open_meter
from nas.train.weights import new_supernet
from supernet.parameter_counts import count
from tests.helpers.devices import costs_of
from tests.helpers.runs import config_of, use_paper_device

SMALLEST, LARGEST = "smallest", "largest"


@pytest.fixture
def few_sampled(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("nas.measure.feasibility.MEDIAN_OF", 7)
    return 7


@pytest.mark.parametrize(
    ("key", "bound", "expected"),
    [
        ("latency_of_largest", 1.2, "yes, by every subnet"),
        ("latency_of_largest", 1.05, "yes"),  # the largest's interval ends at 1.1
        ("latency_of_largest", 0.25, "yes"),
        ("latency_of_largest", 0.18, "unsure, missed by 33.3%"),
        ("latency_of_largest", 0.1, "no, missed by 140.0%"),
        ("latency_ms", 5.6, "yes, by every subnet"),
        ("latency_ms", 0.7, "no, missed by 71.4%"),
        ("params", 100, "yes, by every subnet"),
        ("params", 99, "yes"),
        ("params", 9, "no, missed by 11.1%"),
        ("params_of_largest", 0.2, "yes"),
        ("memory_mib", 0.3, "no, missed by 33.3%"),
        ("memory_of_largest", 0.2, "yes"),
        ("min_params", 10, "yes, by every subnet"),
        ("min_params", 100, "yes"),
        ("min_params", 125, "no, missed by 20.0%"),
        ("min_latency_of_largest", 1.0, "unsure, missed by 10.0%"),
    ],
)
def test_the_table_answers_whether_the_space_can_meet_a_budget(
    key: str, bound: float, expected: str
) -> None:
    costs = {
        SMALLEST: costs_of(0.2, low=0.16, high=0.24, params=10),
        "median": costs_of(0.6, low=0.5, high=0.7, params=50),
        LARGEST: costs_of(1.0, low=0.9, high=1.1, params=100),
    }
    table = budget_table(costs, Budgets.of({key: bound}))
    *cells, verdict = (next(iter(column.cells)) for column in table.columns)
    assert verdict == expected
    any_missed = any(str(cell).endswith(" x") for cell in cells)
    assert any_missed is (expected != "yes, by every subnet")


def test_the_median_architecture_has_as_many_sampled_below_as_above(
    trained_run: Path, few_sampled: int
) -> None:
    config = config_of(trained_run)
    supernet = new_supernet(config)
    meter = open_meter(config, trained_run, supernet)
    generator = Random(config.seed)
    archs = [config.space.sample(generator) for _ in range(few_sampled)]
    sizes = [count(supernet, arch).params for arch in archs]
    middle = count(supernet, median_arch(config, meter)).params
    assert sum(size < middle for size in sizes) <= few_sampled // 2
    assert sum(size > middle for size in sizes) <= few_sampled // 2


@pytest.mark.parametrize("training", [[], ["space.embed_dim=[16]"]])
def test_measure_needs_no_training_and_measures_nothing_twice(
    tmp_path: Path,
    training: list[str],
    few_sampled: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_paper_device(monkeypatch)
    command = ["measure", f"run={tmp_path / 'run'}", "target=cpu", *training]
    assert main([*command, "budget.latency_of_largest=0.9"]) == 0
    first, before = capsys.readouterr().out, (tmp_path / "run" / "latency.jsonl").read_bytes()

    def fail(*_: object) -> list[Session]:
        raise AssertionError("measured again")

    monkeypatch.setattr("nas.measure.sessions.Bench", fail)
    assert main([*command, "budget.latency_of_largest=0.9"]) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "run" / "latency.jsonl").read_bytes() == before


def test_a_budget_of_parameters_bounds_the_smaller_of_the_two_files(
    tmp_path: Path,
    few_sampled: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_paper_device(monkeypatch)
    command = ["measure", f"run={tmp_path / 'run'}", "target=cpu"]
    assert main(command) == 0
    config = config_of(tmp_path / "run")
    meter = open_meter(config, tmp_path / "run", new_supernet(config))
    counts = meter.largest_counts
    assert counts.stored_factorised < counts.stored_merged
    between = (counts.stored_factorised + counts.stored_merged) // 2
    for bound, answer in ((between, "yes, by every subnet"), (counts.params - 1, " yes ")):
        capsys.readouterr()
        assert main([*command, f"budget.params={bound}"]) == 0
        line = next(li for li in capsys.readouterr().out.splitlines() if "budget.params" in li)
        assert answer in line
        assert f"{bound:,}" in line
