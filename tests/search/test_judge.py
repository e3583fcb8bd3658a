"""Verdicts on architectures: kept, shared, ended early, and brought up to date."""

import json
from collections.abc import Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

import nas.search.evaluator
from nas.config.config import Config
from nas.data.batches import load
from nas.evaluate import ORDER_SEED, evaluate
from nas.files import read_records
from nas.hardware.device import training_device
from nas.search.evaluator import Judge, best_at_no_more_cost, front
from nas.train.weights import load_supernet
from tests.helpers.runs import Record, by_size, candidates_of, config_of, use_paper_device

ASKED_BY: dict[str, Any] = {"study": "a study", "trial": 7, "origin": "sampler"}
Z_999 = 3.2905267314918945  # of a two-sided interval of 99.9 %
BATCH = 16  # images of val between two looks


def judge_of(config: Config, run: Path) -> Judge:
    """As a search makes it."""
    supernet, step = load_supernet(config, run, lambda _: None)
    device = training_device(config.train)
    data = load(config.data, seed=config.seed, device=device)
    return Judge(config, run, supernet, data, device, step)


@pytest.fixture
def config(run: Path) -> Config:
    return config_of(run)


@pytest.fixture
def judge(config: Config, run: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    use_paper_device(monkeypatch)
    return judge_of(config, run)


@pytest.fixture
def many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.search.evaluator, "evaluate", partial(evaluate, batch_size=BATCH))


def write_candidates(run: Path, records: Sequence[Record]) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run / "candidates.jsonl").write_text(lines)


def pretend(run: Path, judge: Judge, arch: Any, **changes: Any) -> None:
    """Makes the record of one architecture say something else; it must be judged already."""
    key = json.dumps(judge.judge(arch, {})["arch"])
    records = candidates_of(run)
    mine = [json.dumps(record["arch"]) == key for record in records]
    assert any(mine)
    changed = [{**r, **changes} if own else r for r, own in zip(records, mine, strict=True)]
    write_candidates(run, changed)


def test_what_one_process_judged_no_other_judges_again(
    config: Config, judge: Judge, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = config.space.sample(Random(0))
    first = judge.judge(arch, {}, **ASKED_BY)
    files = [run / "candidates.jsonl", run / "latency.jsonl"]
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr(nas.search.evaluator, "evaluate", pytest.fail)
    for whole in (False, True):
        for who in (judge, judge_of(config, run)):
            asked_by: dict[str, Any] = {"study": "another", "trial": 8, "origin": "guide"}
            again = who.judge(arch, {}, whole=whole, **asked_by)
            assert json.dumps(again) == json.dumps(first)
    assert [path.read_bytes() for path in files] == before


def test_a_verdict_is_the_accuracy_on_val_and_the_costs_and_says_who_asked(
    config: Config, judge: Judge, run: Path
) -> None:
    arch = config.space.largest()
    judge.judge(arch, {}, **ASKED_BY)
    (record,) = candidates_of(run)
    assert ASKED_BY.items() <= record.items()
    assert judge.conditions.items() <= record.items()
    accuracy = evaluate(judge.supernet.extract(arch), judge.data, "val")
    assert (record["split"], record["top1"]) == ("val", accuracy.top1)
    assert (record["num_examples"], record["complete"]) == (judge.data.num_examples("val"), True)
    assert record["params_of_largest"] == record["ratio"] == 1


def hits_in_order(judge: Judge, arch: Any) -> list[int]:
    """Whether each image of val is told right, in the order of evaluation."""
    model = judge.supernet.extract(arch).eval()
    order = torch.randperm(
        judge.data.num_examples("val"), generator=torch.Generator().manual_seed(ORDER_SEED)
    )
    (batch,) = judge.data.eval_batches("val", len(order), order=order)
    with torch.no_grad():
        return [int(hit) for hit in model(batch.images).argmax(1) == batch.targets]


def wilson_upper(hits: int, n: int) -> float:
    z, p = Z_999, hits / n
    centre, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre + half) / (1 + z**2 / n)


def expected_end(hits: Sequence[int], floor: float) -> int:
    """Images seen after the first look at which the upper end lies below the floor, or all."""
    ends = [*range(BATCH, len(hits), BATCH), len(hits)]
    return next((n for n in ends if wilson_upper(sum(hits[:n]), n) < floor), len(hits))


@pytest.mark.usefixtures("many_looks")
def test_an_evaluation_ends_as_soon_as_a_cheaper_subnet_is_surely_better(
    config: Config, judge: Judge, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    judge.judge(cheap, {})
    hits, ends = hits_in_order(judge, dear), set()
    for floor in (1.0, 0.75, 0.6, 0.5, 0.45, sum(hits) / len(hits), 0.01):
        pretend(run, judge, cheap, top1=floor)
        found = judge_of(config, run).judge(dear, {})
        seen = expected_end(hits, floor)
        assert (found["num_examples"], found["top1"]) == (seen, sum(hits[:seen]) / seen)
        assert found["complete"] == (seen == len(hits))
        ends.add(seen)
        write_candidates(run, candidates_of(run)[:1])
    assert len(ends) > 2
    assert len(hits) in ends


@pytest.mark.usefixtures("many_looks")
def test_a_better_subnet_that_costs_more_ends_no_evaluation(
    config: Config, judge: Judge, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    judge.judge(dear, {})
    pretend(run, judge, dear, top1=1.0)
    assert judge_of(config, run).judge(cheap, {})["complete"]


@pytest.mark.usefixtures("many_looks")
def test_what_was_judged_in_part_is_judged_whole_when_it_is_asked_for(
    config: Config, judge: Judge, run: Path
) -> None:
    cheap, dear = config.space.smallest(), config.space.largest()
    judge.judge(cheap, {})
    pretend(run, judge, cheap, top1=1.0)
    judge = judge_of(config, run)
    assert not judge.judge(dear, {}, **ASKED_BY)["complete"]
    assert not judge.judge(dear, {})["complete"]
    whole = judge.judge(dear, {}, whole=True, **ASKED_BY)
    assert whole["complete"]
    assert whole["top1"] == evaluate(judge.supernet.extract(dear), judge.data, "val").top1
    # It stands in the place of the part, here and for whoever reads the file, in any order.
    lines = candidates_of(run)
    assert [line["complete"] for line in lines] == [True, False, True]
    for records in (lines, lines[::-1]):
        write_candidates(run, records)
        found = judge_of(config, run).candidates()
        assert sorted(c["complete"] for c in found) == [True, True]


def test_the_floor_is_the_best_whole_verdict_at_no_more_latency_and_parameters() -> None:
    generator = Random(0)
    for _ in range(50):
        points = [random_point(generator) for _ in range(generator.randrange(8))]
        costs = random_point(generator)
        floors = [
            p["top1"]
            for p in points
            if p["complete"]
            and p["latency_of_largest"] <= costs["latency_of_largest"]
            and p["params"] <= costs["params"]
        ]
        assert best_at_no_more_cost(points, costs) == max(floors, default=0)


def random_point(generator: Random) -> Record:
    figures = {"top1": generator.random(), "params": generator.randrange(4)}
    latency, complete = generator.randrange(4) / 4, generator.random() < 0.7
    return {**figures, "latency_of_largest": latency, "complete": complete}


def test_no_front_has_a_subnet_that_was_judged_in_part() -> None:
    part = {"top1": 0.9, "latency_of_largest": 0.1, "params": 1, "complete": False}
    whole = {**part, "top1": 0.5, "complete": True}
    assert front([part, whole]) == [whole]
    assert front([part]) == []


@pytest.mark.parametrize("key", ["step", "weights", "digest"])
def test_verdicts_of_other_weights_or_another_target_say_nothing(
    config: Config, judge: Judge, run: Path, key: str
) -> None:
    arch = config.space.smallest()
    judge.judge(arch, {})
    pretend(run, judge, arch, **{key: "other"})
    again = judge_of(config, run)
    assert again.find(arch) is None
    assert again.candidates() == []
    again.judge(arch, {})
    assert [record[key] == "other" for record in candidates_of(run)] == [True, False]


def test_costs_are_those_that_the_table_knows_by_now(
    config: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowness = {"now": 1.0}

    def ratio_of(model: nn.Module, reference: nn.Module) -> float:
        return slowness["now"] * by_size(model, reference)

    use_paper_device(monkeypatch, ratio_of)
    judge, arch = judge_of(config, run), config.space.smallest()
    before = judge.judge(arch, {})
    slowness["now"] = 3.0
    judge.meter.side_by_side([arch])
    elsewhere = judge_of(config, run)
    for now in (judge.candidates()[0], judge.judge(arch, {}), elsewhere.candidates()[0]):
        # Half of the passes took thrice as long: the median lies midway, the interval holds both.
        assert now["num_sessions"] == before["num_sessions"] + 1 == 2
        assert before["ratio"] < now["ratio"] < 3 * before["ratio"]
        assert now["ratio_high"] >= 3 * before["ratio"]
        assert now["latency_of_largest"] == now["ratio"]
        assert now["latency_ms"] == pytest.approx(10 * now["ratio"])
        assert (now["top1"], now["params"]) == (before["top1"], before["params"])
    # The line in the file stays as it was: the table is what is looked up.
    assert candidates_of(run)[0]["ratio"] == before["ratio"]
    assert len(read_records(run / "latency.jsonl")) == 3


def test_only_what_is_judged_anew_adds_to_the_time_of_accuracy_passes(
    config: Config, judge: Judge
) -> None:
    assert judge.accuracy_s == 0
    judge.judge(config.space.smallest(), {})
    once = judge.accuracy_s
    assert once > 0
    judge.judge(config.space.smallest(), {})
    assert judge.accuracy_s == once
