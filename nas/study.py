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
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

from nas.components import build
from nas.config import Config
from nas.device import DeviceCard
from nas.files import append_record, locked
from supernet.supernet import Supernet

DIRECTIONS: dict[str, list[Literal["minimize", "maximize"]]] = {
    "best": ["maximize"],
    "pareto": ["maximize", "minimize", "minimize"],
}


class Journal(JournalFileBackend):
    """Optuna's journal, written so that a killed process leaves neither a lock nor half a line.

    Optuna's own lock is a file, which the others wait on for 30 s after its owner was killed, and
    for ever where the path is relative; half a line would make the journal unreadable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            append_record(self.path, log)


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
    return JournalStorage(Journal(run / "study.journal"))


def study_name(config: Config, run: Path, facts: Mapping[str, Any]) -> str:
    """One study for each question: other budgets, weights or samplers begin a new one.

    `facts` is what decides a trial's values besides its parameters. A sampler of its own keeps
    comparisons of samplers fair; what others evaluated is still known from candidates.jsonl.
    """
    search = {"objective": config.search.objective, "sampler": config.search.sampler}
    question = json.dumps({**search, **facts}, sort_keys=True)
    return f"{run.name}-{config.search.objective}-{sha256(question.encode()).hexdigest()[:10]}"


def conditions(step: int, supernet: Supernet, card: DeviceCard) -> dict[str, Any]:
    """What a verdict on an architecture holds for: these weights on this target."""
    return {"step": step, "weights": fingerprint(supernet), "digest": card.digest()}


def fingerprint(model: nn.Module) -> str:
    """A short hash of a model's weights, which must be on the CPU.

    Runs that share one storage may have equal names and steps.
    """
    state = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()[:16]


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


def ask(study: Study, worker: str) -> Trial:
    """A new trial that belongs to `worker` from the moment it runs.

    It is enqueued under its owner's name, since the process may be killed between asking for a
    trial and naming it. Trials that wait already, those of killed processes, come first.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({}, user_attrs={"worker": worker})
    trial = study.ask()
    if trial.user_attrs.get("worker") != worker:  # another process enqueued it
        trial.set_user_attr("worker", worker)
    return trial


def reclaim(study: Study, run: Path, slot: int, say: Callable[[str], None]) -> None:
    """Fails the trials that killed processes left running and enqueues their parameters again.

    A process holds its slot's lock while it lives, so whoever gets a lock knows that trials of that
    slot have no owner. Trials of other hosts or run folders are left alone.
    """
    prefix = worker_name(run, 0).removesuffix("0")
    workers = {worker_of(trial) for trial in running_trials(study)}
    for worker in sorted(worker for worker in workers if worker.startswith(prefix)):
        owner = int(worker.removeprefix(prefix))
        with ExitStack() as stack:
            lock = run / "workers" / f"{owner}.lock"
            if owner != slot and not stack.enter_context(locked(lock, blocking=False)):
                continue
            # Looked up under the lock: another process may have reclaimed them since.
            for trial in running_trials(study):
                if worker_of(trial) == worker:
                    restart(study, trial, worker_name(run, slot))
                    say(f"trial {trial.number} was left by a killed process; it will run again")


def restart(study: Study, trial: FrozenTrial, worker: str) -> None:
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={"worker": worker})


def running_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def worker_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", ""))
