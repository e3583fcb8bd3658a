"""The Optuna study of a run: who works on it, what a killed worker left, what is known already."""

import json
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseGASampler
from optuna.storages import BaseStorage
from optuna.study import Study, create_study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from torch import nn

from nas.config.config import Config
from nas.config.instantiate import build
from nas.files import locked, write_atomic
from nas.hardware.device import digest
from nas.records import Conditions, DeviceCard, to_json
from nas.search.storage import workers_folder
from nas.seeds import mixed_seed
from search_spaces.space import Arch, ArchT, Option, Space
from supernet.supernet import Supernet

# Of a score it is the worth that is told, so that higher is better whatever the metric.
DIRECTIONS: dict[str, list[Literal["minimize", "maximize"]]] = {
    "best": ["maximize"],
    "pareto": ["maximize", "minimize", "minimize"],
}
# Who proposed a trial: the initial design, the study's sampler, predictors, or an earlier study.
Origin = Literal["start", "sampler", "guide", "known"]


def study_name(config: Config, run: Path, conditions: Conditions) -> str:
    """One study for each question: other budgets, weights or samplers begin a new one.

    A sampler of its own keeps comparisons of samplers fair; what others evaluated is still known
    from candidates.jsonl.
    """
    search = {key: getattr(config.search, key) for key in ("objective", "strategy", "sampler")}
    facts = {"budget": config.budget.record(), **to_json(conditions)}
    question = json.dumps({**search, **facts}, sort_keys=True)
    return f"{run.name}-{config.search.objective}-{sha256(question.encode()).hexdigest()[:10]}"


def conditions(step: int, supernet: Supernet[Arch], card: DeviceCard) -> Conditions:
    """What a judged architecture was judged under: these weights on this target."""
    return Conditions(step=step, weights=fingerprint(supernet), digest=digest(card))


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
    study = create_study(
        study_name=name,
        storage=storage,
        directions=DIRECTIONS[config.search.objective],
        load_if_exists=True,
    )
    seed = mixed_seed(config.seed, slot, len(study.get_trials(deepcopy=False)))
    study.sampler = build(config.search.sampler, "search.sampler", seed=seed)
    return study


@contextmanager
def worker_slot(run: Path) -> Iterator[int]:
    """The lowest number that no other living process of this run folder holds."""
    folder = workers_folder(run)
    with ExitStack() as stack:
        slot = 0
        while not stack.enter_context(locked(folder / f"{slot}.lock", blocking=False)):
            slot += 1
        yield slot


def worker_name(run: Path, slot: int) -> str:
    """Who a trial belongs to: host, run folder (its path, and a random word kept in it), slot.

    The word tells containers apart whose hosts and paths have equal names; host and path tell a
    copy of a run folder from the original. Hosts that share a run folder have names, and so
    trials, of their own, whether or not the file system shares their locks. Only where hosts of
    equal names share one, must it share locks too (NFSv4 does). What a host or a folder left
    before it was renamed stays as it is: nobody can tell that its owner is dead.
    """
    return f"{socket.gethostname()}:{run.resolve()}:{folder_id(run)}:{slot}"


def folder_id(run: Path) -> str:
    """A random word, made once for a run folder."""
    path = workers_folder(run) / "id"
    if not path.exists():
        with locked(path.with_suffix(".lock"), blocking=True):
            if not path.exists():  # another process may have made it since
                write_atomic(path, secrets.token_hex(8))
    return path.read_text()


def ask(
    study: Study,
    worker: str,
    params: Mapping[str, Option] | None = None,
    origin: Origin = "sampler",
    *,
    has_waiting: bool = False,
) -> Trial:
    """A trial that belongs to `worker` from the moment it runs, with `params` fixed if given.

    It is enqueued under its owner's name, since the process may be killed between asking for a
    trial and naming it, unless the worker `has_waiting` ones by now. Trials that wait already come
    first, those of killed processes: what came is in the trial, its origin in
    `user_attrs["origin"]`. Then `params` wait for this worker's next call; the study samples what a
    trial leaves open.
    """
    # Others' may be about to run, and one that another takes must be made up for by one of ours.
    if not has_waiting:
        study.enqueue_trial(dict(params or {}), user_attrs={"worker": worker, "origin": origin})
    trial = study.ask()
    known = trial.user_attrs
    if known.get("worker") != worker:  # another process enqueued it
        trial.set_user_attr("worker", worker)
    if "origin" not in known:
        trial.set_user_attr("origin", "sampler")
    return trial


def suggest(trial: Trial, space: Space[ArchT]) -> ArchT:
    """The architecture that a trial is to try."""
    choices = space.choices().items()
    values = {name: trial.suggest_categorical(name, options) for name, options in choices}
    return space.decode(cast(Mapping[str, Option], values))


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
    """Enqueues a trial's parameters, once, then fails it: killed in between, nothing is lost."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    restarted = (other.user_attrs.get("restarts") for other in study.get_trials(deepcopy=False))
    if params and trial.number not in restarted:
        origin = trial.user_attrs.get("origin", "sampler")
        attrs = {"worker": worker, "origin": origin, "restarts": trial.number}
        study.enqueue_trial(params, user_attrs=attrs)
    study.tell(trial.number, state=TrialState.FAIL)


@dataclass(frozen=True)
class Adopted:
    """An architecture whose values are known: a trial that needs no evaluation."""

    params: Mapping[str, Option]  # one of each of the space's choices
    values: Sequence[float]  # one of each of the study's objectives
    constraints: Mapping[str, float]  # met when <= 0; the same keys, in one order, in all trials


def adopt(
    study: Study, run: Path, records: Sequence[Adopted], choices: Mapping[str, Sequence[Option]]
) -> int:
    """Adds those as finished trials whose parameters no trial has yet; returns how many.

    Every sampler then knows them. Each is written as a whole, so that the next call goes on where
    a killed process ended. Processes of one run folder take turns; those of others may add an
    architecture twice, which costs samplers nothing but its weight.
    """
    distributions = {name: CategoricalDistribution(options) for name, options in choices.items()}
    with locked(workers_folder(run) / "adopt.lock", blocking=True):
        trials = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
        known = {frozenset(trial.params.items()) for trial in trials}
        system_attrs = generation(study, trials)
        before = len(known)
        for record in records:
            if (key := frozenset(record.params.items())) in known:
                continue
            known.add(key)
            study.add_trial(
                create_trial(
                    params=dict(record.params),
                    distributions=dict(distributions),
                    values=list(record.values),
                    constraints=dict(record.constraints),
                    user_attrs={"origin": "known"},
                    system_attrs=dict(system_attrs),
                )
            )
    return len(known) - before


def generation(study: Study, trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """The mark of the current generation, without which a genetic sampler overlooks a trial."""
    if not isinstance(study.sampler, BaseGASampler):
        return {}
    key = f"{type(study.sampler).__name__}:generation"
    return {key: max((trial.system_attrs.get(key, 0) for trial in trials), default=0)}


def running_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def worker_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", ""))
