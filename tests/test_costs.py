from dataclasses import asdict, fields
from pathlib import Path
from random import Random

import pytest
from torch import nn

from nas.__main__ import main
from nas.costs import (
    CostMeter,
    Costs,
    budget_table,
    median_arch,
    out_of_reach,
    violations,
)
from nas.files import locked
from nas.measure import LatencyTable, Measurement
from nas.settings import BudgetConfig
from nas.weights import make_supernet
from supernet.ledger import Counts, count
from tests.runs import config_of, use_paper_device

SMALLEST, LARGEST = "smallest", "largest"


def measured(ratio: float, *, low: float, high: float) -> Measurement:
    """Milliseconds are five times the ratio, MiB twice."""
    return Measurement(
        latency_ms=5 * ratio,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        median_ms=6 * ratio,
        p90_ms=7 * ratio,
        spread=0.1,
        num_passes=6,
        memory_mib=2 * ratio,
        flops=1000,
    )


def record(ratio: float, *, low: float, high: float, params: int) -> dict[str, float]:
    largest = Counts(stored_factorised=90, stored_merged=80, resident=85)
    return Costs(
        counts=Counts(stored_factorised=params, stored_merged=params + 7, resident=params + 9),
        largest_counts=largest,
        measurement=measured(ratio, low=low, high=high),
        largest_measurement=measured(1.0, low=0.9, high=1.1),
    ).record()


@pytest.fixture
def few_sampled(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("nas.costs.MEDIAN_OF", 7)
    return 7


COSTS = record(0.5, low=0.4, high=0.6, params=20)


def test_every_budget_has_a_figure_by_its_definition() -> None:
    expected = {
        "latency_ms": 2.5,
        "latency_of_largest": 0.5,
        "params": 20,
        "params_of_largest": 20 / 80,  # of the smaller file on both sides
        "memory_mib": 1.0,
        "memory_of_largest": 0.5,
    }
    assert expected.keys() == {field.name for field in fields(BudgetConfig)}
    assert {key: COSTS[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "judged"),
    [
        ("latency_ms", 3.0),  # 5 * 0.6, the upper end of the interval
        ("latency_of_largest", 0.6),
        ("params", 20),
        ("params_of_largest", 0.25),
        ("memory_mib", 1.0),
        ("memory_of_largest", 0.5),
    ],
)
def test_a_violation_is_the_excess_as_a_fraction_of_the_bound(key: str, judged: float) -> None:
    for factor, excess in ((0.5, 1.0), (0.99, 1 / 0.99 - 1), (1.01, 1 / 1.01 - 1), (4, -0.75)):
        assert violations(COSTS, {key: factor * judged}) == pytest.approx({key: excess})


def test_a_bound_is_out_of_reach_only_if_the_whole_interval_exceeds_it() -> None:
    bounds = {"latency_of_largest": 0.39, "latency_ms": 2.1, "params": 19, "memory_mib": 1.1}
    assert out_of_reach(COSTS, bounds) == ["latency_of_largest", "params"]


@pytest.mark.parametrize(
    ("key", "bound", "answer"),
    [
        ("latency_of_largest", 1.2, "yes, even the largest"),
        ("latency_of_largest", 1.05, "yes"),  # the largest's interval ends at 1.1
        ("latency_of_largest", 0.25, "yes"),
        ("latency_of_largest", 0.18, "unsure, raise target.passes"),
        ("latency_of_largest", 0.1, "no"),
        ("latency_ms", 5.6, "yes, even the largest"),
        ("latency_ms", 0.7, "no"),
        ("params", 100, "yes, even the largest"),
        ("params", 99, "yes"),
        ("params", 9, "no"),
        ("params_of_largest", 0.2, "yes"),
        ("memory_mib", 0.3, "no"),
        ("memory_of_largest", 0.2, "yes"),
    ],
)
def test_the_table_answers_whether_the_space_can_meet_a_budget(
    key: str, bound: float, answer: str
) -> None:
    costs = {
        SMALLEST: record(0.2, low=0.16, high=0.24, params=10),
        "median": record(0.6, low=0.5, high=0.7, params=50),
        LARGEST: record(1.0, low=0.9, high=1.1, params=100),
    }
    table = budget_table(costs, {key: bound})
    *_, marks, verdict = (next(iter(column.cells)) for column in table.columns)
    assert verdict == answer
    assert str(marks).endswith(" x") is (answer != "yes, even the largest")


def test_the_median_architecture_has_as_many_sampled_below_as_above(
    trained_run: Path, few_sampled: int
) -> None:
    config = config_of(trained_run)
    supernet = make_supernet(config)
    generator = Random(config.seed)
    archs = [config.space.sample(generator) for _ in range(few_sampled)]
    sizes = [count(supernet, arch).params for arch in archs]
    middle = count(supernet, median_arch(config, supernet)).params
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

    def fail(*_: object) -> Measurement:
        raise AssertionError("measured again")

    monkeypatch.setattr("nas.measure.measure_now", fail)
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
    meter = CostMeter(config, tmp_path / "run", make_supernet(config))
    counts = meter.largest_counts
    assert counts.stored_factorised < counts.stored_merged
    between = (counts.stored_factorised + counts.stored_merged) // 2
    for bound, answer in ((between, "yes, even the largest"), (counts.params - 1, " yes ")):
        capsys.readouterr()
        assert main([*command, f"budget.params={bound}"]) == 0
        line = next(li for li in capsys.readouterr().out.splitlines() if "budget.params" in li)
        assert answer in line
        assert f"{bound:,}" in line


def test_only_one_process_of_a_run_measures_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run)
    meter = CostMeter(config, run, make_supernet(config))
    use_paper_device(monkeypatch)
    held: list[bool] = []

    def measure_now(model: nn.Module, reference: nn.Module, table: LatencyTable) -> Measurement:
        with locked(run / "latency.lock", blocking=False) as free:
            held.append(not free)
        return measured(0.5, low=0.4, high=0.6)

    monkeypatch.setattr("nas.measure.measure_now", measure_now)
    monkeypatch.setattr("nas.costs.measure_now", measure_now)
    arch = config.space.smallest()
    meter.costs(arch)
    meter.costs_afresh(arch, meter.supernet.extract(arch))
    assert held == [True, True, True]  # the subnet, the largest, the subnet afresh


def test_costs_afresh_are_not_those_of_the_cache(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run)
    meter = CostMeter(config, run, make_supernet(config))
    arch = config.space.smallest()
    use_paper_device(monkeypatch)
    cached = meter.costs(arch)
    use_paper_device(monkeypatch, lambda model, reference: 0.7)
    afresh = meter.costs_afresh(arch, meter.supernet.extract(arch))
    assert afresh.measurement.ratio == 0.7
    assert asdict(meter.costs(arch)) == asdict(cached)
