import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from rich.console import Console

import nas.search.stage
from nas.__main__ import main
from nas.budgets import Budgets
from nas.config.config import Config
from nas.exits import Infeasible
from nas.files import read_records
from nas.records import Asker, Candidate, preference, to_json
from nas.results import Prediction, SearchResult
from nas.search.answer import candidate_table
from nas.search.history import History
from nas.search.stage import in_units, numbered
from nas.search.storage import open_storage
from nas.search.study import suggest
from search_spaces.space import Space
from search_spaces.vit import ViTSpace
from supernet.task import Metric
from tests.helpers.runs import candidates_of, config_of, judged, result_of, use_paper_device

SAMPLERS = {
    "guided": "+search.sampler.population_size=10",
    "tpe": "+search.sampler.n_startup_trials=3",
    "nsga2": "+search.sampler.population_size=3",
    "gp": "+search.sampler.n_startup_trials=3",
    "random": "",
}


@pytest.fixture(autouse=True)
def paper_device(monkeypatch: pytest.MonkeyPatch) -> None:
    use_paper_device(monkeypatch)


@pytest.fixture(scope="module")
def base(trained_run: Path) -> Config:
    return config_of(trained_run)


def search(
    base: Config, run: Path, trials: int, budget: dict[str, float] | None = None, **changes: Any
) -> SearchResult[Any]:
    """What search.json holds after a search; of `main`, only the command line is left out."""
    config = replace(
        base,
        run=str(run),
        budget=Budgets.of(budget or {}),
        search=replace(base.search, trials=trials, **changes),
    )
    nas.search.stage.search(config, run, Console(quiet=True))
    return result_of(run)


def trials_of(run: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(config_of(run), run)
    return storage.get_all_trials(storage.get_study_id_from_name(study))


@pytest.mark.parametrize(
    ("sampler", "objective"),
    [
        ("guided", "best"),
        ("guided", "pareto"),
        ("tpe", "best"),
        ("tpe", "pareto"),
        ("nsga2", "pareto"),
        ("gp", "best"),
        ("random", "best"),
    ],
)
def test_every_sampler_and_objective_chooses_the_best_within_all_budgets(
    run: Path, sampler: str, objective: str
) -> None:
    budgets = Budgets.of({"params": 12_000, "latency_of_largest": 0.5})
    options = [f"search={sampler}", f"search.objective={objective}"]
    options += [f"budget.{bound.key}={bound.limit}" for bound in budgets]
    options += [SAMPLERS[sampler]] if SAMPLERS[sampler] else []
    assert main(["search", f"run={run}", *options, "search.trials=5"]) == 0
    found, candidates = result_of(run), judged(run)
    feasible = [c for c in candidates if budgets.admit(c.costs)]
    assert 0 < len(feasible) < len(candidates)
    assert found.chosen is not None
    assert found.chosen.arch == min(feasible, key=preference).arch
    space, trials = config_of(run).space, trials_of(run, found.study)
    assert found.num_trials == len(trials) == 5
    by_arch = {c.arch: c for c in candidates}
    for trial in trials:
        candidate = by_arch[space.decode(trial.params)]
        costs = candidate.costs
        values = [candidate.score.value, costs.measurement.ratio, costs.counts.params]
        assert trial.values == values[: len(trial.values)]
        assert trial.constraints == pytest.approx(budgets.violations(costs))
        # Who shares the storage from another run folder learns from it.
        assert trial.user_attrs["candidate"] in read_records(run / "candidates.jsonl")


def test_a_budget_below_the_smallest_subnet_ends_at_once(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", f"run={run}", "budget.params=1000", "search.trials=5"]) == 3
    message, found = capsys.readouterr().err, result_of(run)
    smallest = f"{found.smallest.costs.counts.params:,}"
    assert f"budget.params=1,000: best seen {smallest}, nearest subnet {smallest}" in message
    assert json.dumps(candidates_of(run)[0]["arch"]) in message
    assert found.num_trials == 0
    assert found.chosen is None


def test_an_uncertain_latency_of_the_smallest_subnet_ends_no_search(
    base: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 1.0, low=0.5, high=1.5)
    with pytest.raises(Infeasible) as error:
        search(base, run, 4, {"latency_of_largest": 1.2})
    line = "budget.latency_of_largest=1.2: best seen 1.5, nearest subnet 1.5 (missed by 25.0%)"
    assert line in str(error.value)
    found = result_of(run)
    assert found.num_trials == 4
    assert found.chosen is None


def test_budgets_that_exclude_each_other_are_named_as_such(
    base: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower_when_small(model: Any, reference: Any) -> float:
        size = sum(parameter.numel() for parameter in model.parameters())
        return 2 - size / sum(parameter.numel() for parameter in reference.parameters())

    use_paper_device(monkeypatch, slower_when_small, low=0.1, high=1.0)
    with pytest.raises(Infeasible, match="each can be met, but not all together"):
        search(base, run, 4, {"latency_of_largest": 1.1, "params_of_largest": 0.3})
    assert result_of(run).num_trials == 4


def test_a_search_goes_on_from_where_it_was_and_repeats_nothing(base: Config, run: Path) -> None:
    first = search(base, run, 4, {"params": 12_000})
    before = (run / "candidates.jsonl").read_bytes()
    assert search(base, run, 4, {"params": 12_000}).num_trials == 4
    assert (run / "candidates.jsonl").read_bytes() == before
    more = search(base, run, 6, {"params": 12_000})
    assert (more.study, more.num_trials) == (first.study, 6)


@pytest.mark.parametrize(
    "question",
    [
        {"budget": {"params": 9000.0}},
        {"objective": "pareto"},
        {"sampler": {"_target_": "optuna.samplers.RandomSampler"}},
    ],
)
def test_another_question_is_another_study_that_knows_what_was_judged(
    base: Config, run: Path, question: dict[str, Any]
) -> None:
    first, second = search(base, run, 4), search(base, run, 5, **question)
    assert second.study != first.study
    assert second.num_trials == 5
    archs = [candidate.arch for candidate in judged(run)]
    assert len(archs) == len(set(archs))


@pytest.mark.parametrize("changed", [{"step": 0}, {"digest": "other"}])
def test_candidates_of_other_weights_or_devices_are_not_reused(
    base: Config, run: Path, changed: dict[str, Any]
) -> None:
    search(base, run, 2)
    stale = [
        replace(
            candidate,
            score=replace(candidate.score, value=1.0),
            conditions=replace(candidate.conditions, **changed),
        )
        for candidate in judged(run)
    ]
    lines = "".join(json.dumps(to_json(candidate)) + "\n" for candidate in stale)
    (run / "candidates.jsonl").write_text(lines)
    (run / "study.journal").unlink()  # its trials hold candidates under the conditions of now
    found = search(base, run, 3)
    assert found.chosen is not None
    assert found.chosen.score.value < 1.0
    assert len(found.candidates) == len(judged(run)) - len(stale)


def test_the_same_seed_gives_the_same_study(base: Config, run: Path) -> None:
    sampler = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3}
    sequences = []
    for _ in range(2):
        found = search(base, run, 6, {"params": 12_000}, sampler=sampler)
        sequences.append([trial.params for trial in trials_of(run, found.study)])
        (run / "study.journal").unlink()
        (run / "candidates.jsonl").unlink()
    assert sequences[0] == sequences[1]
    assert sequences[0][0] != sequences[0][1]


def test_a_guided_search_tells_how_far_off_its_predictions_of_the_unseen_were(
    base: Config, run: Path
) -> None:
    found = search(base, run, 8, {"params": 20_000})
    complete = [c for c in found.candidates if c.score.complete]
    assert set(found.predictions) == {"score", "params", "latency_of_largest"}
    score = found.predictions["score"]
    assert score.measured == tuple(c.score.value for c in complete)
    assert (
        search(
            base, run, 8, sampler={"_target_": "optuna.samplers.RandomSampler"}, strategy="direct"
        ).predictions
        == {}
    )


def test_predictions_of_an_error_are_in_its_own_unit() -> None:
    of_worth = Prediction(
        kind="ridge", predicted=(-2.0, -1.0), measured=(-3.0, -1.5), mae=0.75, mape=0.33, tau=1.0,
        band_size=0, band_mae=None, band_mape=None, band_tau=None,
    )  # fmt: skip
    error = Metric("mae", "mean absolute error", higher_is_better=False, is_fraction=False)
    found = in_units({"score": of_worth, "params": of_worth}, error)
    assert found["score"] == replace(of_worth, predicted=(2.0, 1.0), measured=(3.0, 1.5))
    assert found["params"] == of_worth


@pytest.fixture
def candidates(base: Config, run: Path) -> list[Candidate[Any]]:
    """Of the smallest, the largest and two trials."""
    search(base, run, 2)
    return judged(run)


def test_trial_numbers_are_those_of_the_study_at_hand(candidates: list[Candidate[Any]]) -> None:
    space: Space[Any] = ViTSpace(embed_dim=(16,), depth=(1,), num_heads=(1, 2, 3), mlp_ratio=(1,))
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    for num_heads in (2, 1, 2):
        study.enqueue_trial({"blocks.0.num_heads": num_heads})
        trial = study.ask()
        suggest(trial, space)
        study.tell(trial, 0.0)
    archs = [replace(space.smallest(), num_heads=(num_heads,)) for num_heads in (1, 2, 3)]
    asked_by = Asker("another", 99, "guide", None)
    before = [replace(candidates[0], arch=arch, asked_by=asked_by) for arch in archs]
    history = History(study, storage, space)
    history.update()
    after = numbered(before, history)
    assert [c.asked_by.trial for c in after] == [1, 0, None]
    assert {c.asked_by for c in after if c.asked_by.trial is None} == {
        replace(asked_by, study=study.study_name, trial=None)
    }


def test_the_table_has_a_line_for_each_candidate_with_its_figures(
    base: Config, candidates: list[Candidate[Any]]
) -> None:
    table = candidate_table("", candidates, base.space)
    columns = {str(column.header): [*column.cells] for column in table.columns}
    assert columns["val top-1"] == [f"{c.score.value:.2%}" for c in candidates]
    assert columns["stored params"] == [f"{c.costs.counts.params:,}" for c in candidates]
    assert columns["trial"] == ["-", "-", "0", "1"]
    for name in base.space.describe(candidates[0].arch):
        assert columns[name] == [base.space.describe(c.arch)[name] for c in candidates]


def test_a_storage_is_given_by_url(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"search.storage=sqlite:///{run / 'study.db'}"
    for trials in (1, 2):
        assert main(["search", f"run={run}", url, f"search.trials={trials}"]) == 0
    assert not (run / "study.journal").exists()
    storage = open_storage(config_of(run, url), run)
    (study,) = storage.get_all_studies()
    complete = storage.get_all_trials(study._study_id, states=(TrialState.COMPLETE,))
    assert len(complete) == result_of(run).num_trials == 2
    assert main(["export", f"run={run}", "pick=1"]) == 2
    assert "search.storage must be that of the search" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nowhere", "sqlite:////no/such/folder/x.db", "redis://localhost"])
def test_a_bad_storage_is_bad_input(
    run: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", f"run={run}", f"search.storage={url}"]) == 2
    message = capsys.readouterr().err
    assert "search.storage must be the URL of an Optuna storage" in message
    assert url in message


def test_a_search_needs_a_trained_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", f"run={tmp_path / 'run'}"]) == 2
    assert "run must be a folder" in capsys.readouterr().err
