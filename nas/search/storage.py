"""Where an Optuna study is kept: a journal file, a database, or a server in front of one."""

import re
import warnings
import weakref
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy as copied
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    get_storage,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from nas.config.config import Config
from nas.files import append_records, locked

EXTRAS = ("postgresql", "grpc")  # of the package, named for the URLs whose drivers they bring
GRPC_TIMEOUT_S = 10
SQLITE_TIMEOUT_S = 60  # that a process waits for the others' transactions


class Journal(JournalFileBackend):
    """Optuna's journal, written so that a killed process leaves neither a lock nor half a line.

    Optuna's own lock is a file, which the others wait on for 30 s after its owner was killed, and
    for ever where the path is relative; half a line would make the journal unreadable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: Sequence[Mapping[str, object]]) -> None:
        """Adds the lines, and waits for the disk only where a trial ends.

        A killed process loses nothing that was written. A power cut may take the trials that were
        running, but no finished one, since the disk then gets everything before it too.
        """
        append_records(self.path, logs, durable=any(ends_trial(log) for log in logs))


class Unfinished:
    """The trials of a study that had not finished when it was last looked at, and new ones.

    Finished ones stay as they are. Of a search with thousands of trials, even a list of all of them
    takes Optuna longer than what else a trial takes here.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.storage, self.study_id = storage, study_id
        self.num_trials = 0  # in any state
        self._ids: list[int] = []

    def look(self) -> list[FrozenTrial]:
        """Each as it is now; those that have finished are not among the next call's."""
        ids = [*self._ids, *self._new_ids()]
        trials = [self.storage.get_trial(trial_id) for trial_id in ids]
        pairs = zip(ids, trials, strict=True)
        self._ids = [trial_id for trial_id, trial in pairs if not trial.state.is_finished()]
        return trials

    def _new_ids(self) -> Iterator[int]:
        """Of the trials that were made since the last call."""
        find = self.storage.get_trial_id_from_study_id_trial_number
        with suppress(KeyError):  # past the last one
            while True:
                yield find(self.study_id, self.num_trials)
                self.num_trials += 1


class Studies(JournalStorage):
    """Optuna's, which finds the trials that wait, as each `Study.ask` does, among few."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._unfinished: dict[int, Unfinished] = {}

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        unfinished = self._unfinished.setdefault(study_id, Unfinished(self, study_id))
        waiting = [trial for trial in unfinished.look() if trial.state == TrialState.WAITING]
        return copied(waiting) if deepcopy else waiting


def ends_trial(log: Mapping[str, object]) -> bool:
    state = log.get("state")
    return isinstance(state, int) and TrialState(state).is_finished()


def open_storage(config: Config, run: Path) -> BaseStorage:
    """The storage at `search.storage`, or a journal file in the run folder."""
    return connect(config.search.storage, run)


def connect(url: str, run: Path) -> BaseStorage:
    """The storage at a URL: grpc://host:port, or any database that Optuna knows; "" for a journal.

    Raises ValueError if there is none, or no driver for it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url:
        return Studies(Journal(run / "study.journal"))
    try:
        if url.startswith("grpc://"):
            return connect_grpc(url)
        # Two processes that make the tables of a new database at once get in each other's way.
        with locked(workers_folder(run) / "storage.lock", blocking=True):
            return connect_database(url)
    except Exception as error:  # whatever the database's driver raises
        kind = re.split(r"\W", url)[0]
        missing = isinstance(error, ImportError) and kind in EXTRAS
        reason = f"its driver comes with pip install 'atomweave[{kind}]'" if missing else error
        raise ValueError(
            "search.storage must be the URL of an Optuna storage, got "
            f"{without_password(url)!r}: {reason}"
        ) from error


def connect_grpc(url: str) -> BaseStorage:
    """Optuna's proxy, for hosts that reach one server but not the database behind it."""
    address = urlsplit(url)
    if not address.hostname or not address.port:
        raise ValueError("the form is grpc://host:port")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=address.hostname, port=address.port)
    proxy.wait_server_ready(timeout=GRPC_TIMEOUT_S)
    return proxy


def connect_database(url: str) -> BaseStorage:
    sqlite = make_url(url).get_backend_name() == "sqlite"
    arguments = {"isolation_level": None, "timeout": SQLITE_TIMEOUT_S} if sqlite else {}
    # Pinged, since a server may have closed what stood idle during a long evaluation.
    storage = RDBStorage(url, engine_kwargs={"connect_args": arguments, "pool_pre_ping": True})
    weakref.finalize(storage, storage.engine.dispose)  # closes the connections
    if sqlite:
        storage.engine.dispose()  # those that were made without what follows
        event.listen(storage.engine, "connect", write_ahead)
        event.listen(storage.engine, "begin", begin_immediate)
    return get_storage(storage)


def write_ahead(connection: DBAPIConnection, _: object) -> None:
    """Saves SQLite the waits for the disk, some 25 a trial; a power cut takes the last changes."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def begin_immediate(connection: Connection) -> None:
    """Takes SQLite's lock before a transaction reads.

    Optuna reads a trial's state, locking its row, before changing it. SQLite has no such locks, and
    its driver begins a transaction only at the change: two processes could run one waiting trial.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except Exception:  # not a database's URL
        return url


def workers_folder(run: Path) -> Path:
    folder = run / "workers"
    folder.mkdir(exist_ok=True)
    return folder
