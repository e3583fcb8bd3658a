"""Storages of studies: each does what every one must, and what cannot be connected to is named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import load_study
from optuna.trial import TrialState

from nas.files import append_record, read_records
from nas.search.storage import connect
from nas.search.study import Adopted, adopt, ask
from tests.contracts.storage import (
    CHOICES,
    StorageContract,
    end_of,
    known,
    open_study,
    start,
    suggest,
)
from tests.helpers import databases


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with databases.postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def grpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with databases.grpc_proxy(tmp_path_factory.mktemp("proxy")) as url:
        yield url


class TestStorages(StorageContract):
    @pytest.fixture(params=["journal", "sqlite", "postgresql", "grpc"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A storage, new to this test or shared with tests whose studies have other names."""
        if request.param == "journal":
            return ""
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/study.db"
        return str(request.getfixturevalue(request.param))


def test_what_a_trial_has_found_or_is_about_to_is_not_adopted(tmp_path: Path) -> None:
    study = open_study("", tmp_path)
    for record in known(3):
        suggest(ask(study, "w", record.params))
    study.tell(0, 0.5)
    study.tell(1, state=TrialState.FAIL)
    assert adopt(study, tmp_path, known(3), CHOICES) == 1
    assert study.get_trials()[3].params == known(2)[1].params


def test_the_journal_finds_the_trials_that_wait_among_those_of_all_its_processes(
    tmp_path: Path,
) -> None:
    name, generator = open_study("", tmp_path).study_name, Random(0)
    storages = [connect("", tmp_path) for _ in range(3)]
    study_id = storages[0].get_study_id_from_name(name)
    seen = set()
    for _ in range(60):
        study = load_study(study_name=name, storage=generator.choice(storages))
        running = study.get_trials(states=(TrialState.RUNNING,))
        if running and generator.random() < 0.5:
            study.tell(generator.choice(running).number, 0.5)
        elif generator.random() < 0.5:
            study.enqueue_trial({"depth": 1})
        else:
            study.ask()
        for storage in storages[: generator.randrange(4)]:
            found = storage.get_all_trials(study_id, states=(TrialState.WAITING,))
            trials = storage.get_all_trials(study_id)
            assert found == [trial for trial in trials if trial.state == TrialState.WAITING]
            seen |= {trial.state for trial in trials}
    assert seen == {TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING}


SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "tpe": lambda: TPESampler(seed=0),
    "nsga2": lambda: NSGAIISampler(seed=0, population_size=6),
    "gp": lambda: GPSampler(seed=0, n_startup_trials=10),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("constrained", [True, False])
def test_samplers_begin_from_what_was_adopted_and_its_constraints(
    sampler: str, constrained: bool, tmp_path: Path
) -> None:
    study = open_study("", tmp_path)
    study.sampler = SAMPLERS[sampler]()
    records = known(18)
    if not constrained:
        records = [Adopted(record.params, record.values, {}) for record in records]
    adopt(study, tmp_path, records, CHOICES)
    depths = []
    for _ in range(12):
        trial = ask(study, "w")
        depths.append(suggest(trial)["depth"])
        if constrained:
            for key, excess in (("params", depths[-1] - 2.5), ("latency_ms", -1.0)):
                trial.set_constraint(key, excess)
        study.tell(trial, float(depths[-1] - 1))
    wanted, shunned = (2, 3) if constrained else (3, 2)
    assert depths.count(wanted) > 2 * depths.count(shunned), depths


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nonsense", "search.storage must be the URL of an Optuna storage, got 'nonsense'"),
        ("grpc://localhost", "grpc://host:port"),
        ("mysql+no_such_driver://me:secret@host/db", r"me:\*\*\*@host"),
    ],
)
def test_a_url_of_no_storage_is_refused(url: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        connect(url, tmp_path)
    with pytest.raises(ValueError, match=r"^(?!.*secret)"):
        connect(url, tmp_path)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql://localhost/db", "psycopg", "postgresql"),
        ("grpc://localhost:1", "grpc", "grpc"),
    ],
)
def test_a_missing_driver_is_named_by_the_extra_that_brings_it(
    url: str, module: Literal["psycopg", "grpc"], extra: str, tmp_path: Path
) -> None:
    worker = start(connect_without, url, tmp_path, module)
    assert end_of(worker) == 0
    (record,) = read_records(tmp_path / "complaint")
    assert f"pip install 'atomweave[{extra}]'" in record["text"]


def connect_without(url: str, run: Path, module: str) -> None:
    import sys

    sys.modules[module] = None  # type: ignore[assignment] # importing it fails
    try:
        connect(url, run)
    except ValueError as error:
        append_record(run / "complaint", {"text": str(error)})


def test_a_server_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setattr("nas.search.storage.GRPC_TIMEOUT_S", 0.1)
    with pytest.raises(ValueError, match=r"search.storage .* 'grpc://localhost:1'.*timeout"):
        connect("grpc://localhost:1", tmp_path)
