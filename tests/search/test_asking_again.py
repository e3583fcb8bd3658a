"""Further questions to one run: what was judged answers them, and what ends a search is told."""

import json
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

import nas.search.evaluator
from nas.__main__ import main
from nas.exits import Stopped
from nas.files import read_records
from nas.search.evaluator import arch_key
from nas.search.storage import open_storage
from tests.helpers.runs import Record, candidates_of, config_of, search_of, use_paper_device

GUIDED = ("search=guided", "+search.sampler.population_size=10")
TPE = ("search=tpe", "+search.sampler.n_startup_trials=3")


@pytest.fixture(autouse=True)
def paper_device(monkeypatch: pytest.MonkeyPatch) -> None:
    use_paper_device(monkeypatch)
    monkeypatch.setattr("nas.measure.feasibility.MEDIAN_OF", 7)


def search(run: Path, *options: str) -> Record:
    assert main(["search", f"run={run}", *options]) == 0
    return search_of(run)


def complete(run: Path) -> list[FrozenTrial]:
    """Finished trials of the last search's study."""
    storage = open_storage(config_of(run), run)
    number = storage.get_study_id_from_name(search_of(run)["study"])
    return storage.get_all_trials(number, states=(TrialState.COMPLETE,))


def origins(run: Path) -> list[str]:
    return [trial.user_attrs["origin"] for trial in complete(run)]


def keys_of(records: list[Record]) -> list[str]:
    return [arch_key(record["arch"]) for record in records]


@pytest.mark.parametrize("strategy", [TPE, GUIDED], ids=["tpe", "guided"])
def test_other_budgets_are_answered_from_what_is_known(
    run: Path, strategy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(run, *strategy, "search.trials=6", "budget.params=12000")
    judged, measured = candidates_of(run), read_records(run / "latency.jsonl")
    monkeypatch.setattr(nas.search.evaluator, "evaluate", pytest.fail)
    second = search(run, *strategy, "search.trials=3", "budget.params=20000")
    assert second["study"] != first["study"]
    assert candidates_of(run) == judged
    assert second["num_evaluated"] == first["num_evaluated"] == len(judged)
    assert set(origins(run)) == {"known"}
    assert second["num_trials"] == len(complete(run)) >= 3
    assert second["ended_by"] == "search.trials"
    again = read_records(run / "latency.jsonl")[len(measured) :]
    assert keys_of(again) == keys_of(second["finalists"])
    feasible = [c for c in judged if c["params"] <= 20000]
    best = max(feasible, key=lambda c: (c["top1"], -c["latency_of_largest"], -c["params"]))
    assert second["chosen"]["arch"] == best["arch"]


def test_what_is_known_and_answers_nothing_counts_for_nothing(run: Path) -> None:
    largest = search(run, "search=tpe", "search.trials=4")["largest"]["params"]
    known = len(candidates_of(run))
    dearest = max(c["params"] for c in candidates_of(run) if c["params"] < largest)
    second = search(run, "search=tpe", "search.trials=2", f"budget.min_params={dearest + 1}")
    asked = [origin for origin in origins(run) if origin != "known"]
    assert len(asked) == 2
    assert second["num_trials"] == len(complete(run)) == known - 2 + 2


@pytest.mark.parametrize("strategy", [TPE, GUIDED], ids=["tpe", "guided"])
def test_more_trials_go_on_where_the_fewer_ended(run: Path, strategy: tuple[str, ...]) -> None:
    budget = "budget.params=12000"
    first = search(run, *strategy, budget, "search.trials=3")
    before, judged = complete(run), candidates_of(run)
    second = search(run, *strategy, budget, "search.trials=5")
    assert second["study"] == first["study"]
    assert complete(run)[:3] == before
    assert len(complete(run)) == second["num_trials"] == 5
    assert candidates_of(run)[: len(judged)] == judged
    assert len(candidates_of(run)) <= len(judged) + 2


def test_patience_ends_a_search_that_finds_nothing_better(run: Path) -> None:
    found = search(run, "search=tpe", "search.trials=60", "search.patience=3")
    assert found["ended_by"] == "search.patience"
    values = [trial.values[0] for trial in complete(run)]
    # The first of the best ones, and three that are no better.
    assert len(values) - 1 - values.index(max(values)) == 3
    assert found["num_trials"] == len(values) < 60


def test_patience_waits_for_a_first_subnet_within_the_budgets(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nas.search.stage.violations", lambda costs, bounds: dict.fromkeys(bounds, 1.0)
    )
    options = ["search=tpe", "budget.params=12000", "search.trials=6", "search.patience=2"]
    assert search(run, *options)["ended_by"] == "search.trials"


def test_hours_end_a_search_which_still_chooses(run: Path) -> None:
    found = search(run, "search=tpe", "search.trials=60", "search.hours=1e-6")
    assert (found["ended_by"], found["num_trials"]) == ("search.hours", 0)
    ends = [found[key]["arch"] for key in ("smallest", "largest")]
    assert found["chosen"]["arch"] in ends


def test_trials_end_a_search_and_the_record_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = search(run, "search=tpe", "search.trials=2")
    assert (found["ended_by"], found["num_trials"]) == ("search.trials", 2)
    said = capsys.readouterr().out
    assert "4 architectures evaluated so far; ended by search.trials" in said
    assert json.dumps(found["chosen"]["arch"]) in said


def test_another_method_runs_trials_of_its_own_and_judges_nothing_twice(run: Path) -> None:
    first = search(run, *TPE, "search.trials=5")
    second = search(run, "search=random", "search.trials=6")
    assert second["study"] != first["study"]
    assert len(complete(run)) == second["num_trials"] == 6
    assert second["num_known"] == 0
    assert "known" not in origins(run)
    archs = keys_of(candidates_of(run))
    assert len(archs) == len(set(archs))


def test_run_folders_that_share_a_storage_share_what_was_judged(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other" / run.name))
    options = [*TPE, f"search.storage=sqlite:///{tmp_path / 'study.db'}", "budget.params=12000"]
    first = search(run, *options, "search.trials=6")
    second = search(other, *options, "search.trials=6")
    assert second["study"] == first["study"]
    assert second["chosen"]["arch"] == first["chosen"]["arch"]
    assert second["num_evaluated"] == first["num_evaluated"]
    assert len(candidates_of(other)) == 2  # the smallest and the largest, which are no trials


def test_the_chosen_one_has_the_number_by_which_this_study_knows_it(run: Path) -> None:
    window = "budget.min_params=4000"  # neither of the two ends, which are no trials
    search(run, *TPE, window, "search.trials=5", "budget.params=30000")
    found = search(run, *TPE, window, "search.trials=5", "budget.params=25000")
    assert found["chosen"]["study"] == found["study"]
    trial = complete(run)[found["chosen"]["trial"]]
    arch = config_of(run).space.decode(trial.params)
    assert arch_key(asdict(arch)) == arch_key(found["chosen"]["arch"])


def test_a_verification_that_is_stopped_leaves_the_answer(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("nas.search.finalists.wait", stopped)
    options = [*TPE, "search.trials=4", "search.verify=2", "budget.params=12000"]
    assert main(["search", f"run={run}", *options]) == 128 + signal.SIGINT
    found = search_of(run)
    assert found["budget"] == {"params": 12000}
    assert found["verified"] == []
    assert json.dumps(found["chosen"]["arch"]) in capsys.readouterr().out
