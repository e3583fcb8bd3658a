"""What became of the trials of a study, each looked into once it has ended."""

from bisect import bisect, insort

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.search.storage import Unfinished
from nas.search.study import worker_of
from search_spaces.space import Arch, Space


class History:
    """Counts and architectures of a study's trials, brought up to date by `update`.

    Of a search with thousands of trials it looks at new ones and at those that are not finished.
    """

    def __init__(self, study: Study, storage: BaseStorage, space: Space[Arch]) -> None:
        self.study, self.space = study, space
        self.num_finished = 0
        self.num_known = 0  # of the finished, answered by earlier searches
        self.numbers: dict[Arch, int] = {}  # of the first finished trial of each architecture
        self.running: set[Arch] = set()  # architectures that some worker is at, or will be
        self.waiting: set[str] = set()  # workers whose trials wait to be run
        self._names = space.choices().keys()
        self._unfinished = Unfinished(storage, storage.get_study_id_from_name(study.study_name))
        self._own: list[int] = []  # finished ones that were judged for this study, ascending
        self._best: tuple[float, int] | None = None  # within the budgets: value, -number
        self._known_answer = False  # whether a known one is within the budgets

    def update(self) -> list[FrozenTrial]:
        """The trials that have finished since the last call."""
        self.running, self.waiting = set(), set()
        finished = []
        for trial in self._unfinished.look():
            if trial.state == TrialState.COMPLETE:
                finished.append(trial)
                self._count(trial)
            elif not trial.state.is_finished():
                if trial.state == TrialState.WAITING:
                    self.waiting.add(worker_of(trial))
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                if params.keys() == self._names:
                    self.running.add(self.space.decode(params))
        return finished

    @property
    def num_trials(self) -> int:
        """In any state."""
        return self._unfinished.num_trials

    @property
    def num_counted(self) -> int:
        """Finished trials; those that an earlier question left count if they answer this one."""
        return self.num_finished - (0 if self._known_answer else self.num_known)

    @property
    def num_since_best(self) -> int:
        """Finished trials since the best one within the budgets, by its first objective."""
        if self._best is None:
            return 0
        return len(self._own) - bisect(self._own, -self._best[1])

    def _count(self, trial: FrozenTrial) -> None:
        arch = self.space.decode(trial.params)
        self.numbers[arch] = min(trial.number, self.numbers.get(arch, trial.number))
        self.num_finished += 1
        within = all(excess <= 0 for excess in trial.constraints.values())
        if trial.user_attrs.get("origin") == "known":
            self.num_known += 1
            self._known_answer |= within
        else:
            insort(self._own, trial.number)
        if within:
            point = trial.values[0], -trial.number
            self._best = max(self._best or point, point)
