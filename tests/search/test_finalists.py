"""The end of a search: who is chosen, what drops out, and how it is verified and told."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import nas.search.evaluator
from nas.budgets import Budgets
from nas.config.config import Config
from nas.config.sections import SearchConfig
from nas.exits import Stopped
from nas.files import append_record, read_records
from nas.records import Asker, Candidate, Finalist, Score, to_json
from nas.results import SearchResult, Seconds
from nas.search.answer import describe_choice
from nas.search.evaluator import Evaluator
from nas.search.finalists import choose, verify
from search_spaces.vit import ViTArch
from tests.helpers.runs import by_size, config_of, size_of, use_paper_device
from tests.search.test_evaluator import evaluator_of

NO_STOP: list[int] = []
ASKER = Asker("a study", 3, "sampler", None)


class Machine:
    """A device on which what is named in `slower` takes that many times as long, from now on."""

    def __init__(self) -> None:
        self.slower: dict[int, float] = {}  # by the number of a model's weights

    def ratio_of(self, model: nn.Module, reference: nn.Module) -> float:
        return by_size(model, reference) * self.slower.get(size_of(model), 1.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    use_paper_device(monkeypatch, machine.ratio_of)
    return machine


@pytest.fixture
def config(run: Path) -> Config:
    return config_of(run)


@pytest.fixture
def settings(config: Config) -> SearchConfig:
    return config.search


@pytest.fixture
def evaluator(config: Config, run: Path, machine: Machine) -> Evaluator:
    return evaluator_of(config, run)


def arch(embed_dim: int, *num_heads: int) -> ViTArch:
    """Of the tiny space; the more heads, the dearer."""
    depth = len(num_heads)
    return ViTArch(embed_dim, num_heads, (1.0,) * depth, (0,) * depth, 1)


# Ascending in size.
ARCHS = [arch(16, 2), arch(16, 3), arch(16, 4), arch(16, 4, 2), arch(16, 4, 4), arch(32, 4, 4)]


def score_of(evaluator: Evaluator, value: float, *, complete: bool = True) -> Score:
    """Of the first half of the split where it is not complete."""
    num_examples = evaluator.data.num_examples("val")
    return Score(
        metric=evaluator.data.task.metric,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        hope=value + 0.2,
        loss=1.0,
        split="val",
        num_examples=num_examples if complete else num_examples // 2,
        complete=complete,
    )


def know(evaluator: Evaluator, arch: ViTArch, value: float, *, complete: bool = True) -> None:
    """Makes it known that an architecture has that score."""
    score, costs = score_of(evaluator, value, complete=complete), evaluator.meter.costs(arch)
    candidate = Candidate(arch, score, costs, ASKER, evaluator.conditions)
    append_record(evaluator.path, to_json(candidate))


def ratio(evaluator: Evaluator, arch: ViTArch) -> float:
    return evaluator.meter.costs(arch).measurement.ratio


def archs_of(finalists: Sequence[Finalist[Any]]) -> list[Any]:
    return [finalist.arch for finalist in finalists]


def slow_down(
    evaluator: Evaluator, machine: Machine, archs: Sequence[ViTArch], factor: float
) -> None:
    for arch in archs:
        machine.slower[size_of(evaluator.supernet.extract(arch))] = factor


def num_sessions(run: Path) -> int:
    return len(read_records(run / "latency.jsonl"))


def test_the_architectures_of_these_tests_ascend_in_cost(evaluator: Evaluator) -> None:
    ratios = [ratio(evaluator, arch) for arch in ARCHS]
    assert ratios == sorted(set(ratios))


def test_the_most_accurate_within_all_budgets_is_chosen_of_the_best_few(
    settings: SearchConfig, evaluator: Evaluator
) -> None:
    for place, known in enumerate(ARCHS):
        know(evaluator, known, place / 10)
    limit = 1.2 * ratio(evaluator, ARCHS[3])  # 5 % are for the interval
    assert 1.05 * ratio(evaluator, ARCHS[4]) > limit
    evaluator.budgets = Budgets.of({"latency_of_largest": limit})
    chosen, measured = choose(settings, evaluator, pytest.fail)
    assert chosen is not None
    assert chosen.arch == ARCHS[3]
    assert archs_of(measured) == [ARCHS[place] for place in (3, 2, 1)]
    assert [finalist.score.value for finalist in measured] == [0.3, 0.2, 0.1]
    assert all(finalist.met for finalist in measured)


def test_the_least_error_is_chosen_where_lower_is_better(
    settings: SearchConfig, evaluator: Evaluator
) -> None:
    error = replace(evaluator.data.task.metric, name="mae", higher_is_better=False)
    for place, known in enumerate(ARCHS[:4]):
        score = replace(score_of(evaluator, 1.0 + place), metric=error)
        costs = evaluator.meter.costs(known)
        evaluator.add(Candidate(known, score, costs, ASKER, evaluator.conditions))
    chosen, measured = choose(settings, evaluator, pytest.fail)
    assert chosen is not None
    assert chosen.arch == ARCHS[0]
    assert [finalist.score.value for finalist in measured] == [1.0, 2.0, 3.0]


def test_of_equal_scores_the_cheaper_is_chosen(
    settings: SearchConfig, evaluator: Evaluator
) -> None:
    for known in reversed(ARCHS[1:4]):
        know(evaluator, known, 0.5)
    chosen, _ = choose(settings, evaluator, pytest.fail)
    assert chosen is not None
    assert chosen.arch == ARCHS[1]


def test_a_finalist_whose_fresh_session_breaks_a_budget_is_dropped_and_others_follow(
    settings: SearchConfig, evaluator: Evaluator, machine: Machine
) -> None:
    for place, known in enumerate(ARCHS[:5]):
        know(evaluator, known, place / 10)
    slow_down(evaluator, machine, ARCHS[2:5], 10.0)
    said: list[str] = []
    limit = 1.06 * ratio(evaluator, ARCHS[4])
    evaluator.budgets = Budgets.of({"latency_of_largest": limit})
    chosen, measured = choose(replace(settings, finalists=2), evaluator, said.append)
    assert chosen is not None
    # Places 4 and 3 went first and broke it; of 2 and 1, only 1 kept it.
    assert chosen.arch == ARCHS[1]
    assert archs_of(measured) == [ARCHS[place] for place in (4, 3, 2, 1)]
    assert [finalist.met for finalist in measured] == [False, False, False, True]
    for finalist in measured[:3]:
        assert finalist.again.ratio == pytest.approx(10 * finalist.searched_ratio)
    (line,) = said
    assert "the 2 best subnets missed a budget when measured again" in line


def test_where_no_finalist_stands_nothing_is_chosen(
    settings: SearchConfig, evaluator: Evaluator, machine: Machine
) -> None:
    for place, known in enumerate(ARCHS):
        know(evaluator, known, place / 10)
    limit = 1.06 * ratio(evaluator, ARCHS[2])
    slow_down(evaluator, machine, ARCHS, 10.0)
    said: list[str] = []
    evaluator.budgets = Budgets.of({"latency_of_largest": limit})
    chosen, measured = choose(replace(settings, finalists=2), evaluator, said.append)
    assert chosen is None
    assert archs_of(measured) == [ARCHS[place] for place in (2, 1, 0)]
    assert not any(finalist.met for finalist in measured)
    assert len(said) == 2


def test_a_choice_bears_its_figures_of_all_sessions_and_a_finalist_those_of_the_last(
    settings: SearchConfig, evaluator: Evaluator, machine: Machine
) -> None:
    know(evaluator, ARCHS[0], 0.5)
    before = ratio(evaluator, ARCHS[0])
    slow_down(evaluator, machine, ARCHS[:1], 1.1)
    chosen, (finalist,) = choose(settings, evaluator, pytest.fail)
    assert chosen is not None
    assert finalist.searched_ratio == before
    assert finalist.again.ratio == pytest.approx(1.1 * before)
    known = chosen.costs.measurement
    assert known.num_sessions == 2
    assert before < known.ratio < 1.1 * before
    assert known.ratio_low <= before < 1.1 * before <= known.ratio_high + 1e-9


def test_none_is_chosen_by_a_part_of_the_split(
    settings: SearchConfig, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, known in enumerate(ARCHS[:4]):
        know(evaluator, known, 0.1 + place / 10, complete=place < 2)
    judged: list[int] = []

    def poor(model: nn.Module, data: object, split: str, *, floor: float | None) -> Score:
        assert (split, floor) == ("val", None)
        judged.append(size_of(model))
        return score_of(evaluator, 0.15)

    monkeypatch.setattr(nas.search.evaluator, "evaluate", poor)
    chosen, measured = choose(replace(settings, finalists=1), evaluator, pytest.fail)
    assert chosen is not None
    # The two that looked better turned out worse than the next, on the whole split, once each.
    assert judged == [size_of(evaluator.supernet.extract(ARCHS[place])) for place in (3, 2)]
    assert (chosen.arch, chosen.score.value) == (ARCHS[1], 0.2)
    assert archs_of(measured) == [ARCHS[1]]
    again = evaluator.known[ARCHS[3]]
    assert (again.score.complete, again.asked_by) == (True, ASKER)


def test_partial_scores_below_the_finalists_stay_as_they_are(
    settings: SearchConfig, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(evaluator, ARCHS[0], 0.5)
    know(evaluator, ARCHS[1], 0.1, complete=False)
    monkeypatch.setattr(nas.search.evaluator, "evaluate", pytest.fail)
    chosen, _ = choose(replace(settings, finalists=1), evaluator, pytest.fail)
    assert chosen is not None
    assert chosen.arch == ARCHS[0]


class Sleep:
    """A clock that only its own `sleep` moves."""

    def __init__(self, wake: Callable[[float], None] = lambda _: None) -> None:
        self.now, self.wake = 0.0, wake

    def sleep(self, pause_s: float) -> None:
        self.now += pause_s
        self.wake(self.now)


def use_clock(patch: pytest.MonkeyPatch, clock: Sleep) -> None:
    time = SimpleNamespace(sleep=clock.sleep, monotonic=lambda: clock.now)
    patch.setattr("nas.search.finalists.time", time)


@pytest.fixture
def chosen(settings: SearchConfig, evaluator: Evaluator) -> Candidate[Any]:
    know(evaluator, ARCHS[0], 0.5)
    found, _ = choose(settings, evaluator, pytest.fail)
    assert found is not None
    return found


def test_the_choice_is_measured_again_as_often_as_asked_after_a_pause_each(
    settings: SearchConfig,
    evaluator: Evaluator,
    machine: Machine,
    chosen: Candidate[Any],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, said = Sleep(), list[str]()
    use_clock(monkeypatch, clock)
    slow_down(evaluator, machine, ARCHS[:1], 1.5)
    known = chosen.costs.measurement.ratio
    evaluator.budgets = Budgets.of({"latency_of_largest": 1.2 * known, "params": 10**9})
    before = num_sessions(run)
    asked = replace(settings, verify=3, verify_pause_s=7.0)
    found = verify(asked, evaluator, chosen, NO_STOP, said.append)
    assert clock.now == pytest.approx(21)
    assert num_sessions(run) == before + 3
    assert [finalist.met for finalist in found] == [False] * 3
    for number, (finalist, line) in enumerate(zip(found, said, strict=True), 1):
        assert finalist.again.ratio == pytest.approx(1.5 * known)
        assert line.startswith(f"verify {number}: ratio {finalist.again.ratio:.4f} [")
        assert "+50.0% from the search's; budgets MISSED" in line


def test_a_verification_that_keeps_the_budgets_says_so(
    settings: SearchConfig, evaluator: Evaluator, chosen: Candidate[Any]
) -> None:
    said: list[str] = []
    limit = 1.01 * chosen.costs.measurement.ratio
    evaluator.budgets = Budgets.of({"latency_of_largest": limit})
    asked = replace(settings, verify=1, verify_pause_s=0.0)
    (finalist,) = verify(asked, evaluator, chosen, NO_STOP, said.append)
    assert finalist.met
    assert said[0].endswith("+0.0% from the search's; budgets met")


def test_a_signal_ends_the_pause_before_a_verification(
    settings: SearchConfig,
    evaluator: Evaluator,
    chosen: Candidate[Any],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop: list[int] = []
    clock = Sleep(lambda now: stop.append(signal.SIGTERM) if now > 100 else None)
    use_clock(monkeypatch, clock)
    before = num_sessions(run)
    asked = replace(settings, verify=5, verify_pause_s=60.0)
    with pytest.raises(Stopped) as ending:
        verify(asked, evaluator, chosen, stop, lambda _: None)
    assert ending.value.exit_code == 128 + signal.SIGTERM
    assert 100 < clock.now < 101
    assert num_sessions(run) == before + 1  # of the first pause


def test_a_choice_is_told_with_interval_bounds_margins_and_counts(
    evaluator: Evaluator, chosen: Candidate[Any]
) -> None:
    measurement = replace(
        chosen.costs.measurement,
        ratio=0.4,
        ratio_low=0.38,
        ratio_high=0.44,
        latency_ms=3.2,
        num_passes=41,
        num_sessions=2,
    )
    counts = replace(chosen.costs.counts, stored_factorised=1200)
    told = replace(
        chosen,
        score=replace(chosen.score, value=0.75, num_examples=287),
        costs=replace(chosen.costs, measurement=measurement, counts=counts),
    )
    again = replace(measurement, ratio=0.41, ratio_low=0.405, ratio_high=0.415)
    result: SearchResult[Any] = SearchResult(
        objective="best",
        strategy="guided",
        budget={"latency_of_largest": 0.5, "params": 1600, "min_latency_of_largest": 0.19},
        study="a study",
        conditions=evaluator.conditions,
        card=evaluator.meter.card,
        chosen=told,
        smallest=told,
        largest=told,
        candidates=(told,) * 9,
        finalists=(Finalist(told.arch, told.score, 0.4, again, met=True),),
        verified=(),
        num_trials=7,
        num_known=2,
        ended_by="search.hours",
        reference_drift=0.031,
        predictions={},
        seconds=Seconds(total=100.2, scores=60.1, costs=30.0, proposals=1.0),
    )
    text = describe_choice(result, told)
    for part in (
        'chosen: {"embed_dim": 16',
        "val top-1 75.00% of 287 examples",
        "0.4000 [0.3800, 0.4400], 41 paired passes in 2 sessions",
        "side by side with the other finalists 0.4100 [0.4050, 0.4150]",
        f"3.200 ms a batch of {evaluator.meter.card.batch_size}",
        # The margin is that of the worse end: 0.44 of 0.5, and 0.38 of 0.19.
        "budget.latency_of_largest: 0.4 <= 0.5, margin 12.0%",
        "budget.params: 1,200 <= 1,600, margin 25.0%",
        "budget.min_latency_of_largest: 0.4 >= 0.19, margin 100.0%",
        "7 trials, 2 of them answered before; 9 architectures evaluated so far",
        "ended by search.hours",
        "100 s, of which scores 60 s, passes for latency and memory 30 s",
        "ranged over 3.1%",
        evaluator.meter.card.describe(),
    ):
        assert part in text
    elsewhere = replace(result, finalists=(replace(result.finalists[0], again=measurement),))
    assert "measured on another machine, not again" in describe_choice(elsewhere, told)
