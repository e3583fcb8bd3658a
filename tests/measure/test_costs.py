from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from nas.__main__ import main
from nas.config.sections import BudgetConfig
from nas.files import locked, read_records
from nas.hardware.device import device_lock
from nas.measure.bench import Session
from nas.measure.feasibility import budget_table, median_arch, nearest_miss
from nas.measure.latency_table import Measurement
from nas.measure.meter import (
    MOST_SESSIONS,
    CostMeter,
    Costs,
    is_met,
    out_of_reach,
    straddled,
    violations,
)
from nas.train.weights import make_supernet
from supernet.parameter_counts import Counts, count
from tests.helpers.runs import config_of, use_paper_device

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
        num_sessions=1,
        num_interrupted=0,
        num_throttled=0,
        memory_mib=2 * ratio,
        resident_mib=None,
        energy_mj=None,
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
    monkeypatch.setattr("nas.measure.feasibility.MEDIAN_OF", 7)
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
    keys = {field.name for field in fields(BudgetConfig)}
    assert keys == expected.keys() | {f"min_{key}" for key in expected}
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


@pytest.mark.parametrize(
    ("key", "judged"),
    [("min_latency_ms", 2.0), ("min_latency_of_largest", 0.4), ("min_params", 20)],
)
def test_a_lower_bound_is_violated_from_below_by_the_other_end(key: str, judged: float) -> None:
    for factor in (0.5, 0.99, 1.01, 4):
        bound = factor * judged
        assert violations(COSTS, {key: bound}) == pytest.approx({key: 1 - judged / bound})


def test_a_window_holds_what_lies_between_its_ends() -> None:
    window = {"min_params": 15, "params": 25}
    for params, met in ((14, False), (15, True), (25, True), (26, False)):
        costs = {**COSTS, "params": params}
        assert (max(violations(costs, window).values()) <= 0) is met
        assert all(is_met(costs, key, bound) for key, bound in window.items()) is met


def test_a_bound_is_out_of_reach_only_if_the_whole_interval_exceeds_it() -> None:
    bounds = {"latency_of_largest": 0.36, "latency_ms": 2.1, "params": 19, "memory_mib": 1.1}
    assert out_of_reach(COSTS, COSTS, bounds) == ["latency_of_largest", "params"]
    large = record(1.0, low=0.9, high=1.1, params=100)
    bounds = {"min_latency_of_largest": 1.05, "min_latency_ms": 6.2, "min_params": 101}
    assert out_of_reach(COSTS, large, bounds) == ["min_latency_ms", "min_params"]


def test_some_subnet_may_be_a_little_faster_than_the_smallest() -> None:
    near = {"latency_of_largest": 0.37, "latency_ms": 1.9}  # 8 % and 5 % below the better end
    assert out_of_reach(COSTS, COSTS, near) == []
    assert max(violations(COSTS, near).values()) > 0


def test_a_latency_straddles_a_bound_that_lies_within_its_interval() -> None:
    inside = {"latency_of_largest": 0.5, "latency_ms": 2.9, "min_latency_of_largest": 0.41}
    outside = {"latency_of_largest": 0.61, "latency_ms": 1.9, "min_latency_ms": 3.1, "params": 19}
    assert straddled(COSTS, inside) == list(inside)
    assert straddled(COSTS, outside) == []


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
        SMALLEST: record(0.2, low=0.16, high=0.24, params=10),
        "median": record(0.6, low=0.5, high=0.7, params=50),
        LARGEST: record(1.0, low=0.9, high=1.1, params=100),
    }
    table = budget_table(costs, {key: bound})
    *cells, verdict = (next(iter(column.cells)) for column in table.columns)
    assert verdict == expected
    any_missed = any(str(cell).endswith(" x") for cell in cells)
    assert any_missed is (expected != "yes, by every subnet")


def test_the_nearest_miss_is_named_with_its_budget_and_amount() -> None:
    candidates = [
        {**record(0.5, low=0.4, high=0.6, params=20), "arch": "one"},
        {**record(0.3, low=0.2, high=0.4, params=90), "arch": "two"},
    ]
    message = nearest_miss(candidates, {"params": 10, "latency_of_largest": 0.7})
    assert "budget.params=10: best seen 20, nearest subnet 20 (missed by 100.0%)" in message
    assert message.endswith('The nearest is "one"')
    message = nearest_miss(candidates, {"min_params": 100})
    assert "budget.min_params=100: best seen 90, nearest subnet 90 (missed by 10.0%)" in message
    message = nearest_miss(candidates, {"params": 30, "latency_of_largest": 0.5})
    assert "each can be met, but not all together" in message
    assert "budget.latency_of_largest=0.5: best seen 0.4, nearest subnet 0.6" in message


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

    def fail(*_: object) -> list[Session]:
        raise AssertionError("measured again")

    monkeypatch.setattr("nas.measure.meter.Bench", fail)
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
    for bound, answer in ((between, "yes, by every subnet"), (counts.params - 1, " yes ")):
        capsys.readouterr()
        assert main([*command, f"budget.params={bound}"]) == 0
        line = next(li for li in capsys.readouterr().out.splitlines() if "budget.params" in li)
        assert answer in line
        assert f"{bound:,}" in line


def test_only_one_process_of_the_machine_measures_on_a_device_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    config = config_of(run)
    meter = CostMeter(config, run, make_supernet(config))
    held: list[bool] = []
    bench = meter._ready_bench()

    def sessions(models: Sequence[nn.Module], **options: Any) -> list[Session]:
        with locked(device_lock(torch.device("cpu")), blocking=False) as free:
            held.append(not free)
        return type(bench).sessions(bench, models)

    monkeypatch.setattr(bench, "sessions", sessions)
    arch = config.space.smallest()
    meter.costs(arch)
    meter.costs_afresh(arch, meter.supernet.extract(arch))
    meter.side_by_side([arch])
    assert held == [True] * 4  # the subnet, the largest, the subnet afresh, and as a finalist


def test_costs_afresh_are_not_those_of_the_table(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    config = config_of(run)
    meter = CostMeter(config, run, make_supernet(config))
    arch = config.space.smallest()
    cached = meter.costs(arch)
    meter.close()
    use_paper_device(monkeypatch, lambda model, reference: 0.7)
    afresh = meter.costs_afresh(arch, meter.supernet.extract(arch))
    assert afresh.measurement.ratio == pytest.approx(0.7)
    assert meter.costs(arch) == cached


def test_a_subnet_whose_interval_holds_a_bound_is_measured_more_but_not_for_ever(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 0.5)
    config = config_of(run)
    meter = CostMeter(config, run, make_supernet(config))
    archs = [config.space.sample(Random(seed)) for seed in range(3)]
    for arch, bound, num_sessions in zip(
        archs, (0.6, 0.51, 0.4), (1, MOST_SESSIONS, 1), strict=True
    ):
        costs = meter.costs(arch, {"latency_of_largest": bound})
        assert costs.measurement.num_sessions == num_sessions


def test_a_straddler_is_no_further_measured_where_it_was_before(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 0.5)
    config = config_of(run)
    bounds = {"latency_of_largest": 0.5}
    CostMeter(config, run, make_supernet(config)).costs(config.space.smallest(), bounds)
    before = read_records(run / "latency.jsonl")
    CostMeter(config, run, make_supernet(config)).costs(config.space.smallest(), bounds)
    assert read_records(run / "latency.jsonl") == before
