"""The Optuna study of a run: where it is kept, who works on it, and what a killed worker left."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState

from nas.config import Config, build
from nas.files import locked

DIRECTIONS: dict[str, list[Literal["minimize", "maximize"]]] = {
    "best": ["maximize"],
    "pareto": ["maximize", "minimize", "minimize"],
}


def open_storage(config: Config, run: Path) -> BaseStorage:
    """The storage at `search.storage`, or a journal file in the run folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if config.search.storage:
        try:
            return get_storage(config.search.storage)
        except Exception as error:  # whatever the database's driver raises
            raise ValueError(
                f"search.storage must be the URL of an Optuna storage, got "
                f"{config.search.storage!r}: {error}"
            ) from error
    return JournalStorage(JournalFileBackend(str(run / "study.journal")))


def study_name(config: Config, run: Path, facts: Mapping[str, Any]) -> str:
    """One study for each question: other budgets or other weights begin a new one.

    `facts` is what decides a trial's values besides its parameters.
    """
    question = json.dumps({"objective": config.search.objective, **facts}, sort_keys=True)
    return f"{run.name}-{config.search.objective}-{sha256(question.encode()).hexdigest()[:10]}"


def open_study(config: Config, storage: BaseStorage, name: str, slot: int) -> Study:
    """The study, made if absent, with a sampler whose draws differ between workers and restarts."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=DIRECTIONS[config.search.objective],
        load_if_exists=True,
    )
    entropy = [config.seed, slot, len(study.get_trials(deepcopy=False))]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    study.sampler = build(config.search.sampler, "search.sampler", seed=seed)
    return study


@contextmanager
def worker_slot(run: Path) -> Iterator[int]:
    """The lowest number that no other living process of this run folder holds."""
    folder = run / "workers"
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        slot = 0
        while not stack.enter_context(locked(folder / f"{slot}.lock", blocking=False)):
            slot += 1
        yield slot


def worker_name(run: Path, slot: int) -> str:
    return f"{socket.gethostname()}:{run.resolve()}:{slot}"


def reclaim(study: Study, run: Path, slot: int, say: Callable[[str], None]) -> None:
    """Fails the trials that killed processes left running and enqueues their parameters again.

    A process holds its slot's lock while it lives, so whoever gets a lock knows that trials of that
    slot have no owner. Trials of other hosts or run folders are left alone.
    """
    prefix = worker_name(run, 0).removesuffix("0")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = str(trial.user_attrs.get("worker", ""))
        if not worker.startswith(prefix):
            continue
        owner = int(worker.removeprefix(prefix))
        lock = run / "workers" / f"{owner}.lock"
        with ExitStack() as stack:
            if owner != slot and not stack.enter_context(locked(lock, blocking=False)):
                continue
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params, skip_if_exists=False)
            say(f"trial {trial.number} was left running by a killed process; it will run again")
