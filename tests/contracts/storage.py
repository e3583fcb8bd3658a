"""What every storage of studies must do: who owns a trial, what becomes of those of the killed.

Yours is held to it by

class TestMine(StorageContract):
    @pytest.fixture
    def url(self) -> str: ...  # as in search.storage
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from nas.files import append_record, read_records
from nas.search.storage import connect
from nas.search.study import Adopted, adopt, ask, reclaim, worker_name, worker_slot
from search_spaces.space import Option

CHOICES: dict[str, tuple[Option, ...]] = {
    "depth": (1, 2, 3),
    "ratio": (0.5, 1.0, 2.0),
    "kind": ("a", "b", "c"),
}


class StorageContract:
    """The fixture `url` is of a storage that is new, or shared with studies of other names."""

    @pytest.fixture(autouse=True)
    def preloaded(self) -> None:
        """What each process would import takes longer than what it does here."""
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])

    def test_a_killed_workers_trial_runs_again_and_a_living_ones_is_left_alone(
        self, url: str, tmp_path: Path
    ) -> None:
        worker = start(ask_and_hang, url, tmp_path)
        (asked,) = wait_for_records(tmp_path / "asked", 1, worker)
        study = open_study(url, tmp_path)
        said: list[str] = []
        with worker_slot(tmp_path) as slot:
            assert slot == 1
            reclaim(study, tmp_path, slot, pytest.fail)
            assert states(study) == ["RUNNING"]
            os.kill(worker.pid or 0, signal.SIGKILL)
            assert end_of(worker) == -signal.SIGKILL
            for _ in range(2):
                reclaim(study, tmp_path, slot, said.append)
            assert len(said) == 1
            assert states(study) == ["FAIL", "WAITING"]
            own = worker_name(tmp_path, slot)
            again = ask(study, own, {"depth": 1}, "start", has_waiting=True)
            assert suggest(again).items() >= {"depth": 3, **asked["params"]}.items()
            assert again.user_attrs["worker"] == own
            assert again.user_attrs["origin"] == "guide"
            study.tell(again, 1.0)
        assert states(study) == ["FAIL", "COMPLETE"]

    def test_a_trial_belongs_to_its_worker_and_has_the_proposed_parameters(
        self, url: str, tmp_path: Path
    ) -> None:
        study = open_study(url, tmp_path)
        sampled = ask(study, "w")
        proposed = ask(study, "w", {"depth": 2, "ratio": 2.0, "kind": "c"}, "start")
        assert suggest(proposed) == {"depth": 2, "ratio": 2.0, "kind": "c"}
        for trial, origin in ((sampled, "sampler"), (proposed, "start")):
            attrs = open_study(url, tmp_path).get_trials()[trial.number].user_attrs
            assert attrs == {"worker": "w", "origin": origin}
        assert states(study) == ["RUNNING", "RUNNING"]

    def test_two_processes_run_each_trial_once(self, url: str, tmp_path: Path) -> None:
        num_trials, num_waiting = 20, 12  # those of killed workers, which both reach for
        left = open_study(url, tmp_path)
        for _ in range(num_waiting):
            left.enqueue_trial({"depth": 1}, user_attrs={"worker": "killed", "origin": "guide"})
        workers = [start(work, url, tmp_path, num_trials) for _ in range(2)]
        assert [end_of(worker) for worker in workers] == [0, 0]
        trials = open_study(url, tmp_path).get_trials()
        complete = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        runs = [record["trial"] for record in read_records(tmp_path / "runs")]
        assert sorted(runs) == complete
        assert num_trials <= len(complete) <= num_trials + 1
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.WAITING}
        assert {trial.user_attrs["origin"] for trial in trials[:num_waiting]} == {"guide"}
        assert {trial.params["depth"] for trial in trials[:num_waiting]} == {1}
        owners = {trial.user_attrs["worker"] for trial in trials}
        assert owners == {worker_name(tmp_path, slot) for slot in (0, 1)}

    def test_two_processes_may_find_a_storage_empty(self, url: str, tmp_path: Path) -> None:
        workers = [start(work, url, tmp_path, 2) for _ in range(2)]
        assert [end_of(worker) for worker in workers] == [0, 0]
        assert len({record["slot"] for record in read_records(tmp_path / "ready")}) == 2

    def test_what_is_known_is_adopted_once(self, url: str, tmp_path: Path) -> None:
        study = open_study(url, tmp_path)
        assert adopt(study, tmp_path, known(5), CHOICES) == 5
        killed = start(adopt_known, url, tmp_path)
        while killed.is_alive() and len(study.get_trials()) == 5:
            time.sleep(0.001)
        killed.kill()
        end_of(killed)
        others = [start(adopt_known, url, tmp_path) for _ in range(2)]
        assert [end_of(process) for process in others] == [0, 0]
        assert adopt(study, tmp_path, known(20), CHOICES) == 0
        trials = open_study(url, tmp_path).get_trials()
        expected = known(20)
        assert [trial.params for trial in trials] == [record.params for record in expected]
        assert [trial.values for trial in trials] == [record.values for record in expected]
        for trial, record in zip(trials, expected, strict=True):
            assert trial.constraints == record.constraints
        assert {trial.user_attrs["origin"] for trial in trials} == {"known"}
        assert study.best_trial.params["depth"] == 2


def open_study(url: str, run: Path) -> Study:
    """The study named for the test, since servers are shared."""
    return optuna.create_study(
        study_name=run.name,
        storage=connect(url, run),
        direction="maximize",
        sampler=RandomSampler(seed=os.getpid()),
        load_if_exists=True,
    )


def suggest(trial: Trial) -> dict[str, Any]:
    return {name: trial.suggest_categorical(name, options) for name, options in CHOICES.items()}


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def end_of(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def ask_and_hang(url: str, run: Path) -> None:
    """A worker that never finishes its trial."""
    with worker_slot(run) as slot:
        trial = ask(open_study(url, run), worker_name(run, slot), {"depth": 3}, "guide")
        trial.suggest_categorical("ratio", CHOICES["ratio"])
        append_record(run / "asked", {"params": trial.params})
        time.sleep(600)


def wait_for_records(path: Path, count: int, *processes: BaseProcess) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while len(records := read_records(path)) < count:
        assert all(process.is_alive() for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return records


def work(url: str, run: Path, num_trials: int) -> None:
    """Runs trials until the study has that many, and notes each run."""
    study = open_study(url, run)
    with worker_slot(run) as slot:
        append_record(run / "ready", {"slot": slot})
        wait_for_records(run / "ready", 2)
        while states(study).count("COMPLETE") < num_trials:
            trial = ask(study, worker_name(run, slot))
            suggest(trial)
            append_record(run / "runs", {"trial": trial.number})
            study.tell(trial, 0.0)


def known(num: int) -> list[Adopted]:
    """Different architectures; those of depth 3 are the best and break the budget."""
    return [
        Adopted(
            params={
                "depth": 1 + i % 3,
                "ratio": (0.5, 1.0, 2.0)[i // 3 % 3],
                "kind": "abc"[i // 9],
            },
            values=[float(i % 3)],
            constraints={"params": i % 3 - 1.5, "latency_ms": -1.0},
        )
        for i in range(num)
    ]


def adopt_known(url: str, run: Path) -> None:
    adopt(open_study(url, run), run, known(20), CHOICES)
