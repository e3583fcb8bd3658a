"""The study of a run, worked on by processes that are killed, stopped, or run side by side."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import optuna
import pytest
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.__main__ import main
from nas.files import locked, read_records
from nas.records import Conditions
from nas.search import study as nas_study
from nas.search.storage import open_storage
from nas.search.study import (
    ask,
    fingerprint,
    open_study,
    reclaim,
    study_name,
    worker_name,
    worker_slot,
)
from tests.helpers.runs import config_of, judged, result_of
from tests.helpers.spaces import make_supernet

BUDGET = "budget.params=12000"


def work(arguments: list[str]) -> None:
    sys.exit(main(arguments))


def start(run: Path, trials: int) -> BaseProcess:
    """A search in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "nas.search.stage"])
    command = ["search", f"run={run}", BUDGET, f"search.trials={trials}"]
    process = context.Process(target=work, args=(command,))
    process.start()
    return process


def end_of(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def wait_for_growth(path: Path, size: int, process: BaseProcess) -> None:
    """Returns once the file has that many bytes more."""
    before = path.stat().st_size if path.exists() else 0
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size < before + size:
        assert process.is_alive(), "the search ended before it was to be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def trials_of(run: Path) -> list[FrozenTrial]:
    storage = open_storage(config_of(run), run)
    return storage.get_all_trials(storage.get_study_id_from_name(result_of(run).study))


def in_state(trials: list[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == state]


def test_a_search_survives_being_killed_and_stopped_at_any_moment(run: Path) -> None:
    generator, num_trials = Random(0), 9
    for signum, code in (
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 128 + signal.SIGTERM),
    ):
        process = start(run, num_trials)
        wait_for_growth(run / "study.journal", generator.randrange(300, 4000), process)
        os.kill(process.pid or 0, signum)
        assert end_of(process) == code
    assert main(["search", f"run={run}", BUDGET, f"search.trials={num_trials}"]) == 0
    trials = trials_of(run)
    complete = in_state(trials, TrialState.COMPLETE)
    assert len(complete) == result_of(run).num_trials == num_trials
    assert in_state(trials, TrialState.RUNNING) == []
    for failed in in_state(trials, TrialState.FAIL):  # what was cut short has run again
        assert any(failed.params.items() <= trial.params.items() for trial in complete)
    archs = [candidate.arch for candidate in judged(run)]
    assert len(archs) == len(set(archs)) >= 3


def test_two_processes_share_one_study(run: Path) -> None:
    num_trials = 8
    processes = [start(run, num_trials) for _ in range(2)]
    assert [end_of(process) for process in processes] == [0, 0]
    trials = trials_of(run)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.WAITING}
    complete = in_state(trials, TrialState.COMPLETE)
    assert num_trials <= len(complete) <= num_trials + 1
    workers = {trial.user_attrs["worker"] for trial in complete}
    assert workers <= {worker_name(run, slot) for slot in (0, 1)}
    archs = [candidate.arch for candidate in judged(run)]
    # Both may judge the smallest, the largest and one more at the same moment.
    assert len(archs) - len(set(archs)) <= 3
    # One at a time on a device: what both begin with is measured by one of them.
    space, lines = config_of(run).space, read_records(run / "latency.jsonl")
    assert [space.from_record(line["arch"]) for line in lines].count(space.largest()) == 1


def test_workers_hold_the_lowest_slots_that_are_free(tmp_path: Path) -> None:
    with worker_slot(tmp_path) as first, worker_slot(tmp_path) as second:
        assert (first, second) == (0, 1)
    with worker_slot(tmp_path) as third:
        assert third == 0


@pytest.fixture
def study(run: Path) -> Study:
    config = config_of(run)
    (run / "workers").mkdir()
    return open_study(config, open_storage(config, run), "name", 0)


def leave_running(study: Study, worker: str) -> int:
    trial = ask(study, worker)
    trial.suggest_categorical("depth", (1, 2))
    return trial.number


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_what_a_killed_process_left_runs_again_with_the_same_parameters(
    run: Path, study: Study
) -> None:
    left = [leave_running(study, worker_name(run, slot)) for slot in (0, 3)]
    said: list[str] = []
    reclaim(study, run, 0, said.append)
    assert states(study) == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert [line.split()[1] for line in said] == [str(number) for number in left]
    for number in left:
        again = ask(study, worker_name(run, 0), has_waiting=True)
        again.suggest_categorical("depth", (1, 2))
        assert again.params == study.get_trials()[number].params
        assert again.user_attrs["worker"] == worker_name(run, 0)


def test_trials_of_the_living_and_of_other_hosts_and_folders_are_left_alone(
    run: Path, study: Study
) -> None:
    leave_running(study, worker_name(run, 2))
    leave_running(study, worker_name(run.parent, 3))
    leave_running(study, f"elsewhere:{run.resolve()}:4")
    with locked(run / "workers" / "2.lock", blocking=False):
        reclaim(study, run, 0, pytest.fail)
    assert states(study) == ["RUNNING"] * 3


def test_of_two_processes_that_reclaim_at_once_one_does(
    run: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_running(study, worker_name(run, 5))
    reclaiming: list[str] = []

    def locked_after_another(path: Path, *, blocking: bool) -> AbstractContextManager[bool]:
        monkeypatch.undo()
        reclaim(study, run, 1, reclaiming.append)
        return locked(path, blocking=blocking)

    monkeypatch.setattr(nas_study, "locked", locked_after_another)
    reclaim(study, run, 0, pytest.fail)
    assert len(reclaiming) == 1
    assert states(study) == ["FAIL", "WAITING"]


def test_a_process_killed_just_after_asking_has_named_its_trial(
    run: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", killed)
    ask(study, worker_name(run, 0))
    reclaim(study, run, 0, lambda _: None)
    assert states(study) == ["FAIL"]


def test_a_trial_belongs_to_whoever_runs_it(run: Path, study: Study) -> None:
    study.enqueue_trial({}, user_attrs={"worker": "another"})
    for has_waiting in (False, True):  # then the one of its own
        trial = ask(study, worker_name(run, 0), has_waiting=has_waiting)
        assert trial.user_attrs == {"worker": worker_name(run, 0), "origin": "sampler"}
        assert states(study) == ["RUNNING", "RUNNING" if has_waiting else "WAITING"]


def test_a_trial_that_another_process_took_first_is_made_up_for(run: Path, study: Study) -> None:
    ask(study, worker_name(run, 1))
    trial = ask(study, worker_name(run, 0), has_waiting=True)  # as it was when it was looked at
    assert trial.user_attrs == {"worker": worker_name(run, 0), "origin": "sampler"}
    assert states(study) == ["RUNNING", "RUNNING"]


def test_a_process_killed_while_it_reclaims_enqueues_nothing_twice(
    run: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = leave_running(study, worker_name(run, 3))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        reclaim(study, run, 0, lambda _: None)
    monkeypatch.undo()
    assert states(study) == ["RUNNING", "WAITING"]
    reclaim(study, run, 0, lambda _: None)
    assert states(study) == ["FAIL", "WAITING"]
    assert ask(study, worker_name(run, 0)).user_attrs["restarts"] == number


def test_a_proposal_survives_a_process_killed_before_it_looks_at_it(
    run: Path, study: Study
) -> None:
    for _ in range(2):  # killed twice
        ask(study, worker_name(run, 3), {"depth": 2}, "guide")
        reclaim(study, run, 0, lambda _: None)
    again = ask(study, worker_name(run, 0))
    assert again.suggest_categorical("depth", (1, 2)) == 2
    assert again.user_attrs["origin"] == "guide"


def test_a_run_folder_is_told_from_its_copy_and_from_one_of_an_equal_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    name = worker_name(run, 0)
    assert worker_name(run, 0) == name != worker_name(run, 1)
    shutil.copytree(run, tmp_path / "copy")
    assert worker_name(tmp_path / "copy", 0) != name
    run.rename(tmp_path / "away")
    run.mkdir()  # as another container may have it
    assert worker_name(run, 0) != name


def test_the_disk_is_waited_for_when_a_trial_ends(
    run: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr("nas.files.os.fsync", waits.append)
    trial = ask(study, "worker")
    trial.suggest_categorical("depth", (1, 2))
    assert waits == []
    study.tell(trial, 0.0)
    assert len(waits) == 1


def test_half_a_line_and_a_lock_left_in_the_journal_do_no_harm(run: Path, study: Study) -> None:
    leave_running(study, worker_name(run, 0))
    with (run / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":')
    (run / "study.journal.lock").symlink_to("study.journal")
    config = config_of(run)
    again = open_study(config, open_storage(config, run), "name", 0)
    reclaim(again, run, 0, lambda _: None)
    afresh = open_study(config, open_storage(config, run), "name", 0)
    assert states(afresh) == ["FAIL", "WAITING"]


def test_a_question_names_its_study(run: Path) -> None:
    config, here = config_of(run), Conditions(7, "weights", "digest")
    names = [
        study_name(config, run, here),
        study_name(config, run, replace(here, weights="others")),
        study_name(config_of(run, "budget.params=1"), run, here),
        study_name(config_of(run, "search=random"), run, here),
        study_name(config_of(run, "search.objective=pareto"), run, here),
    ]
    assert len(set(names)) == len(names)
    assert study_name(config_of(run, "search.trials=7"), run, here) == names[0]


def test_a_fingerprint_tells_weights_apart_and_nothing_else() -> None:
    prints = [fingerprint(make_supernet(seed=seed)) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_sampler_draws_anew_in_another_worker_and_after_a_restart(run: Path) -> None:
    config = config_of(run, "search=random")
    draws = []
    for slot in (0, 0, 1):
        study = open_study(config, open_storage(config, run), "name", slot)
        trial = study.ask()
        values = [trial.suggest_categorical(f"x{i}", (1, 2, 3, 4)) for i in range(12)]
        study.tell(trial, 0.0)
        draws.append(values)
    assert draws[0] != draws[1] != draws[2] != draws[0]
