"""Judged architectures: kept, shared, ended early, and brought up to date."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

import nas.search.evaluator
from nas.budgets import Budgets
from nas.config.config import Config
from nas.data.batches import load
from nas.evaluate import FEWEST, ORDER_SEED, evaluate
from nas.files import read_records
from nas.hardware.device import training_device
from nas.records import Asker, Candidate, Conditions, preference, to_json
from nas.search.evaluator import Evaluator, Front
from nas.train.weights import load_supernet
from tests.helpers.runs import by_size, candidates_of, config_of, judged, use_paper_device

ASKER = Asker("a study", 7, "sampler", "direct RandomSampler")
Z_999 = 3.2905267314918945  # of a two-sided interval of 99.9 %
BATCH = 16  # images of val between two looks


def evaluator_of(config: Config, run: Path) -> Evaluator:
    """As a search makes it."""
    supernet, step = load_supernet(config, run, lambda _: None)
    device = training_device(config.train)
    data = load(config.data, config.task, seed=config.seed, device=device)
    return Evaluator(config, run, supernet, data, device, step)


@pytest.fixture
def config(run: Path) -> Config:
    return config_of(run)


@pytest.fixture
def evaluator(config: Config, run: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    use_paper_device(monkeypatch)
    return evaluator_of(config, run)


@pytest.fixture
def many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.search.evaluator, "evaluate", partial(evaluate, batch_size=BATCH))


def write_candidates(run: Path, candidates: Iterable[Candidate[Any]]) -> None:
    lines = "".join(json.dumps(to_json(candidate)) + "\n" for candidate in candidates)
    (run / "candidates.jsonl").write_text(lines)


def pretend(run: Path, arch: Any, change: Callable[[Candidate[Any]], Candidate[Any]]) -> None:
    """Makes the line of one architecture say something else; it must be judged already."""
    candidates = judged(run)
    assert arch in [candidate.arch for candidate in candidates]
    write_candidates(run, (change(c) if c.arch == arch else c for c in candidates))


def with_value(value: float, candidate: Candidate[Any]) -> Candidate[Any]:
    return replace(candidate, score=replace(candidate.score, value=value))


def test_what_one_process_judged_no_other_judges_again(
    config: Config, evaluator: Evaluator, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = config.space.sample(Random(0))
    first = evaluator.judge(arch, ASKER)
    files = [run / "candidates.jsonl", run / "latency.jsonl"]
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr(nas.search.evaluator, "evaluate", pytest.fail)
    for whole in (False, True):
        for who in (evaluator, evaluator_of(config, run)):
            assert who.judge(arch, Asker("another", 8, "guide", None), whole=whole) == first
    assert [path.read_bytes() for path in files] == before


def test_a_candidate_has_the_score_on_val_and_the_costs_and_says_who_asked(
    config: Config, evaluator: Evaluator, run: Path
) -> None:
    arch = config.space.largest()
    found = evaluator.judge(arch, ASKER)
    assert judged(run) == [found]
    assert (found.asked_by, found.conditions) == (ASKER, evaluator.conditions)
    assert found.score == evaluate(evaluator.supernet.extract(arch), evaluator.data, "val")
    assert found.score.complete
    assert found.score.num_examples == evaluator.data.num_examples("val")
    assert found.costs.params_of_largest == found.costs.measurement.ratio == 1


def hits_in_order(evaluator: Evaluator, arch: Any) -> list[int]:
    """Whether each image of val is told right, in the order of evaluation."""
    model = evaluator.supernet.extract(arch).eval()
    order = torch.randperm(
        evaluator.data.num_examples("val"), generator=torch.Generator().manual_seed(ORDER_SEED)
    )
    (batch,) = evaluator.data.eval_batches("val", len(order), order=order)
    with torch.no_grad():
        return [int(hit) for hit in model(*batch.inputs).argmax(1) == batch.targets]


def wilson_upper(hits: int, n: int) -> float:
    z, p = Z_999, hits / n
    centre, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre + half) / (1 + z**2 / n)


def expected_end(hits: Sequence[int], floor: float) -> int:
    """Images seen after the first look at which the upper end lies below the floor, or all.

    Looks at fewer than `FEWEST` do not count.
    """
    ends = [*(n for n in range(BATCH, len(hits), BATCH) if n >= FEWEST), len(hits)]
    return next((n for n in ends if wilson_upper(sum(hits[:n]), n) < floor), len(hits))


@pytest.mark.usefixtures("many_looks")
def test_an_evaluation_ends_as_soon_as_a_cheaper_subnet_is_surely_better(
    config: Config, evaluator: Evaluator, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    evaluator.judge(cheap, ASKER)
    hits, ends = hits_in_order(evaluator, dear), set()
    for floor in (1.0, 0.75, 0.6, 0.5, 0.45, sum(hits) / len(hits), 0.01):
        pretend(run, cheap, partial(with_value, floor))
        score = evaluator_of(config, run).judge(dear, ASKER).score
        seen = expected_end(hits, floor)
        assert (score.num_examples, score.value) == (seen, sum(hits[:seen]) / seen)
        assert score.complete == (seen == len(hits))
        ends.add(seen)
        write_candidates(run, judged(run)[:1])
    assert len(ends) > 2
    assert len(hits) in ends


@pytest.mark.usefixtures("many_looks")
def test_a_better_subnet_that_costs_more_ends_no_evaluation(
    config: Config, evaluator: Evaluator, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    evaluator.judge(dear, ASKER)
    pretend(run, dear, partial(with_value, 1.0))
    assert evaluator_of(config, run).judge(cheap, ASKER).score.complete


@pytest.mark.usefixtures("many_looks")
def test_what_was_judged_in_part_is_judged_whole_when_it_is_asked_for(
    config: Config, evaluator: Evaluator, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    evaluator.judge(cheap, ASKER)
    pretend(run, cheap, partial(with_value, 1.0))
    evaluator = evaluator_of(config, run)
    for _ in range(2):
        assert not evaluator.judge(dear, ASKER).score.complete
    whole = evaluator.judge(dear, ASKER, whole=True).score
    assert whole == evaluate(evaluator.supernet.extract(dear), evaluator.data, "val")
    # It stands in the place of the part, here and for whoever reads the file, in any order.
    lines = judged(run)
    assert [line.score.complete for line in lines] == [True, False, True]
    for candidates in (lines, lines[::-1]):
        write_candidates(run, candidates)
        assert [c.score.complete for c in evaluator_of(config, run).candidates()] == [True, True]


@pytest.fixture
def candidate(config: Config, evaluator: Evaluator) -> Candidate[Any]:
    return evaluator.judge(config.space.largest(), ASKER)


def made_up(candidate: Candidate[Any], generator: Random) -> Candidate[Any]:
    """With a score and costs of a few values, so that many are equal."""
    costs = candidate.costs
    ratio, params = generator.randint(1, 4) / 4, generator.randint(1, 4)
    return replace(
        candidate,
        score=replace(candidate.score, value=generator.randrange(6) / 8),
        costs=replace(
            costs,
            measurement=replace(costs.measurement, ratio=ratio),
            counts=replace(costs.counts, stored_merged=params),
        ),
    )


def test_the_floor_is_the_best_score_at_no_more_latency_and_parameters(
    candidate: Candidate[Any],
) -> None:
    generator = Random(0)
    for _ in range(100):
        front, added = Front(), list[Candidate[Any]]()
        for _ in range(generator.randrange(8)):
            added.append(made_up(candidate, generator))
            front.add(added[-1])
        costs = made_up(candidate, generator).costs
        worths = [
            other.score.worth
            for other in added
            if other.costs.measurement.ratio <= costs.measurement.ratio
            and other.costs.counts.params <= costs.counts.params
        ]
        assert front.best_at_no_more_cost(costs) == max(worths, default=None)
        assert set(front.points) <= {preference(other) for other in added}
        assert len(front.points) == len(set(front.points))


def test_only_whole_splits_within_the_budgets_are_rivals(
    config: Config, run: Path, candidate: Candidate[Any]
) -> None:
    part = replace(candidate, score=replace(candidate.score, complete=False))
    limits = {"params": candidate.costs.counts.params}
    for budget, known, count in (
        ({}, candidate, 1),
        ({}, part, 0),
        (limits, candidate, 1),
        ({"params": limits["params"] - 1}, candidate, 0),
    ):
        write_candidates(run, [known])
        evaluator = evaluator_of(replace(config, budget=Budgets.of(budget)), run)
        evaluator.read()
        assert len(evaluator.front.points) == count


@pytest.mark.parametrize("changed", [{"step": 0}, {"weights": "other"}, {"digest": "other"}])
def test_what_was_judged_of_other_weights_or_on_another_target_says_nothing(
    config: Config, evaluator: Evaluator, run: Path, changed: dict[str, Any]
) -> None:
    arch = config.space.smallest()
    evaluator.judge(arch, ASKER)
    others: Conditions = replace(evaluator.conditions, **changed)
    pretend(run, arch, lambda candidate: replace(candidate, conditions=others))
    again = evaluator_of(config, run)
    assert again.find(arch) is None
    assert again.candidates() == []
    again.judge(arch, ASKER)
    assert [c.conditions for c in judged(run)] == [others, evaluator.conditions]


def test_lines_of_an_older_version_are_passed_over(
    config: Config, evaluator: Evaluator, run: Path
) -> None:
    old = {"arch": {"operations": ["none"] * 6}, "top1": 0.5, "step": 0, "digest": "x"}
    (run / "candidates.jsonl").write_text(json.dumps(old) + "\n")
    evaluator.judge(config.space.smallest(), ASKER)
    assert len(evaluator.known) == 1
    assert len(candidates_of(run)) == 2


def test_a_damaged_line_is_named(config: Config, evaluator: Evaluator, run: Path) -> None:
    evaluator.judge(config.space.smallest(), ASKER)
    (record,) = candidates_of(run)
    record["score"]["loss"] = "low"
    (run / "candidates.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=r"candidates.jsonl: score.loss: .*'low'"):
        evaluator_of(config, run).read()


def test_costs_are_those_that_the_table_knows_by_now(
    config: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowness = {"now": 1.0}

    def ratio_of(model: nn.Module, reference: nn.Module) -> float:
        return slowness["now"] * by_size(model, reference)

    use_paper_device(monkeypatch, ratio_of)
    evaluator, arch = evaluator_of(config, run), config.space.smallest()
    before = evaluator.judge(arch, ASKER)
    known = before.costs.measurement
    slowness["now"] = 3.0
    evaluator.meter.side_by_side([arch])
    elsewhere = evaluator_of(config, run)
    for candidate in (
        evaluator.candidates()[0],
        evaluator.judge(arch, ASKER),
        elsewhere.candidates()[0],
    ):
        # Half of the passes took thrice as long: the median lies midway, the interval holds both.
        now = candidate.costs.measurement
        assert now.num_sessions == known.num_sessions + 1 == 2
        assert known.ratio < now.ratio < 3 * known.ratio
        assert now.ratio_high >= 3 * known.ratio
        assert now.latency_ms == pytest.approx(10 * now.ratio)
        assert (candidate.score, candidate.costs.counts) == (before.score, before.costs.counts)
    # The line in the file stays as it was: the table is what is looked up.
    assert judged(run) == [before]
    assert len(read_records(run / "latency.jsonl")) == 3


def test_a_reopened_file_of_candidates_counts_no_parameters_again(
    config: Config, evaluator: Evaluator, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator.judge(config.space.smallest(), ASKER)
    again = evaluator_of(config, run)
    monkeypatch.setattr("nas.measure.meter.count", pytest.fail)
    assert again.candidates() == evaluator.candidates()


def test_only_what_is_judged_anew_adds_to_the_time_of_passes_on_val(
    config: Config, evaluator: Evaluator
) -> None:
    assert evaluator.scores_s == 0
    evaluator.judge(config.space.smallest(), ASKER)
    once = evaluator.scores_s
    assert once > 0
    evaluator.judge(config.space.smallest(), ASKER)
    assert evaluator.scores_s == once
