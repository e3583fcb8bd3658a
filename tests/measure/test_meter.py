from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

import nas.measure.sessions
from nas.budgets import Budgets
from nas.files import locked, read_records
from nas.hardware.device import device_lock
from nas.measure.bench import Session
from nas.measure.meter import MOST_SESSIONS, open_meter
from nas.train.weights import new_supernet
from tests.helpers.runs import config_of, use_paper_device


def test_only_one_process_of_the_machine_measures_on_a_device_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    config = config_of(run)
    meter = open_meter(config, run, new_supernet(config))
    held: list[bool] = []
    bench: Any = vars(nas.measure.sessions)["Bench"]

    class Watched(bench):  # type: ignore[misc]
        def sessions(self, models: Sequence[nn.Module], **options: Any) -> list[Session]:
            with locked(device_lock(torch.device("cpu")), blocking=False) as free:
                held.append(not free)
            return bench.sessions(self, models)

    monkeypatch.setattr("nas.measure.sessions.Bench", Watched)
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
    meter = open_meter(config, run, new_supernet(config))
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
    meter = open_meter(config, run, new_supernet(config))
    archs = [config.space.sample(Random(seed)) for seed in range(3)]
    for arch, bound, num_sessions in zip(
        archs, (0.6, 0.51, 0.4), (1, MOST_SESSIONS, 1), strict=True
    ):
        costs = meter.costs(arch, Budgets.of({"latency_of_largest": bound}))
        assert costs.measurement.num_sessions == num_sessions
        assert meter.can_improve(costs) is (num_sessions < MOST_SESSIONS)


def test_a_straddler_is_no_further_measured_where_it_was_before(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 0.5)
    config = config_of(run)
    bounds = Budgets.of({"latency_of_largest": 0.5})
    open_meter(config, run, new_supernet(config)).costs(config.space.smallest(), bounds)
    before = read_records(run / "latency.jsonl")
    open_meter(config, run, new_supernet(config)).costs(config.space.smallest(), bounds)
    assert read_records(run / "latency.jsonl") == before


def test_refreshed_costs_are_of_all_sessions_by_now(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 0.5)
    config = config_of(run)
    meter, other = (open_meter(config, run, new_supernet(config)) for _ in range(2))
    arch = config.space.smallest()
    before = meter.costs(arch)
    assert meter.refreshed(arch, before) == before
    (alone,) = other.side_by_side([arch])
    after = meter.refreshed(arch, before)
    assert (alone.num_sessions, after.measurement.num_sessions) == (1, 2)
    assert after == replace(before, measurement=after.measurement)
