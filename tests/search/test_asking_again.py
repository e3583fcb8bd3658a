"""Further questions to one run: what was judged answers them, and what ends a search is told."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

import nas.search.evaluator
from nas.__main__ import main
from nas.budgets import Budgets
from nas.exits import Stopped
from nas.files import read_records
from nas.records import Candidate, Finalist, preference
from nas.results import SearchResult
from nas.search.storage import open_storage
from search_spaces.space import to_record
from tests.helpers.runs import config_of, judged, result_of, use_paper_device

GUIDED = ("search=guided", "+search.sampler.population_size=10")
TPE = ("search=tpe", "+search.sampler.n_startup_trials=3")


@pytest.fixture(autouse=True)
def paper_device(monkeypatch: pytest.MonkeyPatch) -> None:
    use_paper_device(monkeypatch)
    monkeypatch.setattr("nas.measure.feasibility.MEDIAN_OF", 7)


def search(run: Path, *options: str) -> SearchResult[Any]:
    assert main(["search", f"run={run}", *options]) == 0
    return result_of(run)


def complete(run: Path) -> list[FrozenTrial]:
    """Finished trials of the last search's study."""
    storage = open_storage(config_of(run), run)
    number = storage.get_study_id_from_name(result_of(run).study)
    return storage.get_all_trials(number, states=(TrialState.COMPLETE,))


def origins(run: Path) -> list[str]:
    return [trial.user_attrs["origin"] for trial in complete(run)]


def archs_of(found: Sequence[Candidate[Any] | Finalist[Any]]) -> list[Any]:
    return [one.arch for one in found]


@pytest.mark.parametrize("strategy", [TPE, GUIDED], ids=["tpe", "guided"])
def test_other_budgets_are_answered_from_what_is_known(
    run: Path, strategy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(run, *strategy, "search.trials=6", "budget.params=12000")
    candidates, measured = judged(run), read_records(run / "latency.jsonl")
    monkeypatch.setattr(nas.search.evaluator, "evaluate", pytest.fail)
    second = search(run, *strategy, "search.trials=3", "budget.params=20000")
    assert second.study != first.study
    assert judged(run) == candidates
    assert archs_of(second.candidates) == archs_of(first.candidates) == archs_of(candidates)
    assert set(origins(run)) == {"known"}
    assert second.num_trials == second.num_known == len(complete(run)) >= 3
    assert second.ended_by == "search.trials"
    again = read_records(run / "latency.jsonl")[len(measured) :]
    space = config_of(run).space
    assert [space.from_record(line["arch"]) for line in again] == archs_of(second.finalists)
    feasible = [c for c in candidates if c.costs.counts.params <= 20000]
    assert second.chosen is not None
    assert second.chosen.arch == min(feasible, key=preference).arch


def test_what_is_known_and_answers_nothing_counts_for_nothing(run: Path) -> None:
    found = search(run, "search=tpe", "search.trials=4")
    known, params = len(judged(run)), sorted(c.costs.counts.params for c in judged(run))
    assert params[-2] < params[-1] == found.largest.costs.counts.params
    dearest = params[-2]
    second = search(run, "search=tpe", "search.trials=2", f"budget.min_params={dearest + 1}")
    asked = [origin for origin in origins(run) if origin != "known"]
    assert len(asked) == 2
    assert second.num_trials == len(complete(run)) == known - 2 + 2


@pytest.mark.parametrize("strategy", [TPE, GUIDED], ids=["tpe", "guided"])
def test_more_trials_go_on_where_the_fewer_ended(run: Path, strategy: tuple[str, ...]) -> None:
    budget = "budget.params=12000"
    first = search(run, *strategy, budget, "search.trials=3")
    before, candidates = complete(run), judged(run)
    second = search(run, *strategy, budget, "search.trials=5")
    assert second.study == first.study
    assert complete(run)[:3] == before
    assert len(complete(run)) == second.num_trials == 5
    assert judged(run)[: len(candidates)] == candidates
    assert len(judged(run)) <= len(candidates) + 2


def test_patience_ends_a_search_that_finds_nothing_better(run: Path) -> None:
    found = search(run, "search=tpe", "search.trials=60", "search.patience=3")
    assert found.ended_by == "search.patience"
    values = [trial.values[0] for trial in complete(run)]
    # The first of the best ones, and three that are no better.
    assert len(values) - 1 - values.index(max(values)) == 3
    assert found.num_trials == len(values) < 60


def test_patience_waits_for_a_first_subnet_within_the_budgets(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(budgets: Budgets, _: object) -> dict[str, float]:
        return dict.fromkeys(budgets.record(), 1.0)

    monkeypatch.setattr(Budgets, "violations", missed)
    options = ["search=tpe", "budget.params=12000", "search.trials=6", "search.patience=2"]
    assert search(run, *options).ended_by == "search.trials"


def test_hours_end_a_search_which_still_chooses(run: Path) -> None:
    found = search(run, "search=tpe", "search.trials=60", "search.hours=1e-6")
    assert (found.ended_by, found.num_trials) == ("search.hours", 0)
    assert found.chosen in (found.smallest, found.largest)


def test_trials_end_a_search_and_the_record_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search(run, "search=tpe", "search.trials=2")
    assert (found.ended_by, found.num_trials) == ("search.trials", 2)
    said = capsys.readouterr().out
    assert "4 architectures evaluated so far; ended by search.trials" in said
    assert found.chosen is not None
    assert json.dumps(to_record(found.chosen.arch)) in said


def test_another_method_runs_trials_of_its_own_and_judges_nothing_twice(run: Path) -> None:
    first = search(run, *TPE, "search.trials=5")
    second = search(run, "search=random", "search.trials=6")
    assert second.study != first.study
    assert len(complete(run)) == second.num_trials == 6
    assert second.num_known == 0
    assert "known" not in origins(run)
    archs = archs_of(judged(run))
    assert len(archs) == len(set(archs))


def test_run_folders_that_share_a_storage_share_what_was_judged(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other" / run.name))
    options = [*TPE, f"search.storage=sqlite:///{tmp_path / 'study.db'}", "budget.params=12000"]
    first = search(run, *options, "search.trials=6")
    second = search(other, *options, "search.trials=6")
    assert second.study == first.study
    assert first.chosen is not None
    assert second.chosen is not None
    # Each folder times its finalists itself.
    chosen = [(one.arch, one.score, one.costs.counts) for one in (first.chosen, second.chosen)]
    assert chosen[0] == chosen[1]
    assert archs_of(second.candidates) == archs_of(first.candidates)
    assert len(judged(other)) == 2  # the smallest and the largest, which are no trials


def test_the_chosen_one_has_the_number_by_which_this_study_knows_it(run: Path) -> None:
    window = "budget.min_params=4000"  # neither of the two ends, which are no trials
    search(run, *TPE, window, "search.trials=5", "budget.params=30000")
    found = search(run, *TPE, window, "search.trials=5", "budget.params=25000")
    assert found.chosen is not None
    assert found.chosen in found.candidates
    asked_by = found.chosen.asked_by
    assert asked_by.study == found.study
    assert asked_by.trial is not None
    assert config_of(run).space.decode(complete(run)[asked_by.trial].params) == found.chosen.arch


def test_a_verification_that_is_stopped_leaves_the_answer(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("nas.search.finalists.wait", stopped)
    options = [*TPE, "search.trials=4", "search.verify=2", "budget.params=12000"]
    assert main(["search", f"run={run}", *options]) == 128 + signal.SIGINT
    found = result_of(run)
    assert found.budget == {"params": 12000}
    assert found.verified == ()
    assert found.chosen is not None
    assert json.dumps(to_record(found.chosen.arch)) in capsys.readouterr().out
