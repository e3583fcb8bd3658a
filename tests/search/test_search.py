import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

import nas.search.stage
from nas.__main__ import main
from nas.config.config import Config
from nas.exits import Infeasible
from nas.measure.meter import violations
from nas.search.evaluator import arch_key, front, preference
from nas.search.finalists import candidate_table
from nas.search.stage import numbered
from nas.search.storage import open_storage
from search_spaces.vit import ViTSpace
from tests.helpers.runs import Record, candidates_of, config_of, search_of, use_paper_device

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
    base: Config, run: Path, trials: int, budget: dict[str, Any] | None = None, **changes: Any
) -> Record:
    """What search.json holds after a search; of `main`, only the command line is left out."""
    config = replace(
        base,
        run=str(run),
        budget=replace(base.budget, **(budget or {})),
        search=replace(base.search, trials=trials, **changes),
    )
    nas.search.stage.search(config, run, Console(quiet=True))
    return search_of(run)


def trials_of(run: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(config_of(run), run)
    return storage.get_all_trials(storage.get_study_id_from_name(study))


def point(top1: float, latency_of_largest: float, params: int) -> Record:
    costs = {"latency_of_largest": latency_of_largest, "params": params}
    return {"top1": top1, "complete": True, **costs}


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
    bounds = {"params": 12_000, "latency_of_largest": 0.5}
    budgets = [f"budget.{key}={bound}" for key, bound in bounds.items()]
    options = [f"search={sampler}", f"search.objective={objective}", *budgets]
    options += [SAMPLERS[sampler]] if SAMPLERS[sampler] else []
    assert main(["search", f"run={run}", *options, "search.trials=5"]) == 0
    found, judged = search_of(run), candidates_of(run)
    feasible = [c for c in judged if all(x <= 0 for x in violations(c, bounds).values())]
    assert 0 < len(feasible) < len(judged)
    ranked = sorted(feasible, key=lambda c: (-c["top1"], c["latency_of_largest"], c["params"]))
    assert found["chosen"]["arch"] == ranked[0]["arch"]
    space, trials = config_of(run).space, trials_of(run, found["study"])
    assert found["num_trials"] == len(trials) == 5
    by_arch = {arch_key(c["arch"]): c for c in judged}
    for trial in trials:
        candidate = by_arch[arch_key(asdict(space.decode(trial.params)))]
        values = [candidate[key] for key in ("top1", "latency_of_largest", "params")]
        assert trial.values == values[: len(trial.values)]
        assert trial.constraints == pytest.approx(violations(candidate, bounds))


def test_a_budget_below_the_smallest_subnet_ends_at_once(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", f"run={run}", "budget.params=1000", "search.trials=5"]) == 3
    message, found = capsys.readouterr().err, search_of(run)
    smallest = f"{found['smallest']['params']:,}"
    assert f"budget.params=1,000: best seen {smallest}, nearest subnet {smallest}" in message
    assert found["num_trials"] == 0
    assert found["chosen"] is None


def test_an_uncertain_latency_of_the_smallest_subnet_ends_no_search(
    base: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch, lambda model, reference: 1.0, low=0.5, high=1.5)
    with pytest.raises(Infeasible) as error:
        search(base, run, 4, {"latency_of_largest": 1.2})
    line = "budget.latency_of_largest=1.2: best seen 1.5, nearest subnet 1.5 (missed by 25.0%)"
    assert line in str(error.value)
    found = search_of(run)
    assert found["num_trials"] == 4
    assert found["chosen"] is None


def test_budgets_that_exclude_each_other_are_named_as_such(
    base: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower_when_small(model: Any, reference: Any) -> float:
        size = sum(parameter.numel() for parameter in model.parameters())
        return 2 - size / sum(parameter.numel() for parameter in reference.parameters())

    use_paper_device(monkeypatch, slower_when_small, low=0.1, high=1.0)
    with pytest.raises(Infeasible, match="each can be met, but not all together"):
        search(base, run, 4, {"latency_of_largest": 1.1, "params_of_largest": 0.3})
    assert search_of(run)["num_trials"] == 4


def test_a_search_goes_on_from_where_it_was_and_repeats_nothing(base: Config, run: Path) -> None:
    first = search(base, run, 4, {"params": 12_000})
    before = (run / "candidates.jsonl").read_bytes()
    assert search(base, run, 4, {"params": 12_000})["num_trials"] == 4
    assert (run / "candidates.jsonl").read_bytes() == before
    more = search(base, run, 6, {"params": 12_000})
    assert (more["study"], more["num_trials"]) == (first["study"], 6)


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
    assert second["study"] != first["study"]
    assert second["num_trials"] == 5
    archs = [arch_key(candidate["arch"]) for candidate in candidates_of(run)]
    assert len(archs) == len(set(archs))


@pytest.mark.parametrize("key", ["step", "digest"])
def test_candidates_of_other_weights_or_devices_are_not_reused(
    base: Config, run: Path, key: str
) -> None:
    search(base, run, 2)
    records = candidates_of(run)
    stale = [{**c, "top1": 1.0, key: "other" if key == "digest" else c[key] + 1} for c in records]
    (run / "candidates.jsonl").write_text("".join(json.dumps(c) + "\n" for c in stale))
    (run / "study.journal").unlink()  # its trials hold verdicts under the conditions of now
    found = search(base, run, 3)
    assert found["chosen"]["top1"] < 1.0
    assert found["num_evaluated"] == len(candidates_of(run)) - len(stale)


def test_the_same_seed_gives_the_same_study(base: Config, run: Path) -> None:
    sampler = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3}
    sequences = []
    for _ in range(2):
        found = search(base, run, 6, {"params": 12_000}, sampler=sampler)
        sequences.append([trial.params for trial in trials_of(run, found["study"])])
        (run / "study.journal").unlink()
        (run / "candidates.jsonl").unlink()
    assert sequences[0] == sequences[1]
    assert sequences[0][0] != sequences[0][1]


def test_the_front_is_what_no_other_dominates() -> None:
    generator = Random(0)
    for _ in range(20):
        points = [
            point(generator.randrange(4) / 4, generator.randrange(4) / 4, generator.randrange(4))
            for _ in range(generator.randrange(1, 25))
        ]

        def dominated(a: Record, points: list[Record] = points) -> bool:
            return any(
                b["top1"] >= a["top1"]
                and b["latency_of_largest"] <= a["latency_of_largest"]
                and b["params"] <= a["params"]
                and b != a
                for b in points
            )

        expected = sorted((p for p in points if not dominated(p)), key=preference)
        assert front(points) == expected


def test_of_equal_accuracy_the_cheaper_one_is_preferred() -> None:
    ranked = [point(0.9, 0.8, 9), point(0.5, 0.1, 7), point(0.5, 0.2, 1), point(0.5, 0.2, 2)]
    assert sorted([ranked[i] for i in (2, 0, 3, 1)], key=preference) == ranked


def test_trial_numbers_are_those_of_the_study_at_hand() -> None:
    space = ViTSpace(embed_dim=(16,), depth=(1,), num_heads=(1, 2, 3), mlp_ratio=(1,))
    study = optuna.create_study()
    for num_heads in (2, 1, 2):
        study.enqueue_trial({"blocks.0.num_heads": num_heads})
        trial = study.ask()
        for name, options in space.choices().items():
            trial.suggest_categorical(name, options)
        study.tell(trial, 0.0)
    other = {"study": "another", "trial": 99}
    candidates = []
    for num_heads in (1, 2, 3):
        arch = {**asdict(space.smallest()), "num_heads": [num_heads]}
        candidates.append({"arch": json.loads(json.dumps(arch)), **other})
    assert [c["trial"] for c in numbered(candidates, study, space)] == [1, 0, None]


def test_the_table_has_a_line_for_each_candidate_with_its_figures(base: Config, run: Path) -> None:
    search(base, run, 2)
    candidates = candidates_of(run)
    table = candidate_table("", candidates)
    columns = {str(column.header): [*column.cells] for column in table.columns}
    assert columns["val top-1"] == [f"{c['top1']:.4f}" for c in candidates]
    assert columns["stored params"] == [f"{c['params']:,}" for c in candidates]
    assert columns["trial"] == ["-", "-", "0", "1"]


def test_a_storage_is_given_by_url(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"search.storage=sqlite:///{run / 'study.db'}"
    for trials in (1, 2):
        assert main(["search", f"run={run}", url, f"search.trials={trials}"]) == 0
    assert not (run / "study.journal").exists()
    storage = open_storage(config_of(run, url), run)
    (study,) = storage.get_all_studies()
    complete = storage.get_all_trials(study._study_id, states=(TrialState.COMPLETE,))
    assert len(complete) == search_of(run)["num_trials"] == 2
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
