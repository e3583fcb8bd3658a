"""The study of a run, worked on by processes that are killed, stopped, or run side by side."""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import optuna
import pytest
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas import study as nas_study
from nas.__main__ import main
from nas.files import locked, read_records
from nas.search import arch_key
from nas.study import (
    ask,
    fingerprint,
    open_storage,
    open_study,
    reclaim,
    study_name,
    worker_name,
    worker_slot,
)
from tests.runs import Record, candidates_of, config_of, search_of
from tests.spaces import make_supernet

BUDGET = "budget.params=12000"


def work(arguments: list[str]) -> None:
    sys.exit(main(arguments))


def start(run: Path, trials: int) -> BaseProcess:
    """A search in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "nas.search"])
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
    return storage.get_all_trials(storage.get_study_id_from_name(search_of(run)["study"]))


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
    assert len(complete) == search_of(run)["num_trials"] == num_trials
    assert in_state(trials, TrialState.RUNNING) == []
    for failed in in_state(trials, TrialState.FAIL):  # what was cut short has run again
        assert any(failed.params.items() <= trial.params.items() for trial in complete)
    archs = [arch_key(candidate["arch"]) for candidate in candidates_of(run)]
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
    archs = [arch_key(candidate["arch"]) for candidate in candidates_of(run)]
    # Both may judge the smallest, the largest and one more at the same moment.
    assert len(archs) - len(set(archs)) <= 3
    measured = [arch_key(line["arch"]) for line in latencies_of(run)]
    assert len(measured) == len(set(measured))  # on a device, one at a time


def latencies_of(run: Path) -> list[Record]:
    return [r for r in read_records(run / "latency.jsonl") if r["kind"] == "measurement"]


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
        again = ask(study, worker_name(run, 0))
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
    assert ask(study, worker_name(run, 0)).user_attrs["worker"] == worker_name(run, 0)
    assert states(study) == ["RUNNING"]


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
    config = config_of(run)
    names = [
        study_name(config, run, {}),
        study_name(config, run, {"budget": {"params": 1}}),
        study_name(config_of(run, "search=random"), run, {}),
        study_name(config_of(run, "search.objective=pareto"), run, {}),
    ]
    assert len(set(names)) == len(names)
    assert study_name(config_of(run, "search.trials=7"), run, {}) == names[0]


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
