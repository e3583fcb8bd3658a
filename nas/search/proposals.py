"""What a search tries next: random draws at first, then its sampler, or predictors."""

from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import TrialState

from nas.config.config import Config
from nas.config.instantiate import build
from nas.config.sections import MIN
from nas.measure.meter import excess
from nas.search.acquisition import Guide, Known
from nas.search.evaluator import Judge, is_complete
from nas.search.predictors import MIN_KNOWN, CrossValidation
from nas.search.study import Origin
from search_spaces.space import Option

Proposal = tuple[Mapping[str, Option] | None, Origin]


class Proposals:
    """Proposes one trial after another for one worker of a study.

    With `target.table`, only what was measured there is proposed.
    """

    def __init__(self, config: Config, study: Study, judge: Judge, seed: int) -> None:
        self.config, self.study, self.judge = config, study, judge
        self.space = config.space
        self.generator = Random(seed)
        self.queue: deque[Any] = deque()
        pool = None
        if judge.meter.elsewhere:
            pool = [self.space.from_record(arch) for arch in judge.meter.table.archs()]
        self.guide = Guide(
            self.space,
            config.budget.bounds(),
            objective=config.search.objective,
            kind=config.search.predictor,
            exact=self.counted,
            sampler=self.make_sampler,
            refit_every=config.search.round,
            pool=pool,
        )

    def next(self) -> Proposal | None:
        """Parameters of the next trial, None where the sampler chooses; None if none is left."""
        if len(self.study.get_trials(deepcopy=False)) < self.config.search.start:
            return self.fixed(self.guide.start(1, self.generator, self.tried()), "start")
        if self.config.search.strategy == "direct":
            return None, "sampler"
        return self.fixed(self.guided(), "guide")

    def fixed(self, archs: list[Any], origin: Origin) -> Proposal | None:
        return (self.space.encode(archs[0]), origin) if archs else None

    def guided(self) -> list[Any]:
        """The next of the queue that nobody has taken up; a new queue when it is empty."""
        tried = self.tried()
        for renewed in (False, True):
            if renewed:
                known, rounds = self.known(), self.config.search.round
                self.queue.extend(self.guide.propose(known, tried, self.generator, count=rounds))
            while self.queue:
                arch = self.queue.popleft()
                if arch not in tried:
                    return [arch]
        return []

    def known(self) -> list[Known[Any]]:
        """What was judged, latencies by the end of their interval that a budget judges them by.

        Accuracy on a part of the split is less certain but not wrong.
        """
        bounds = self.config.budget.bounds()
        return [
            Known(self.space.from_record(c["arch"]), c["top1"], judged_costs(c, bounds))
            for c in self.judge.candidates()
        ]

    def tried(self) -> set[Any]:
        """Architectures that were judged or that some worker is at."""
        states = (TrialState.RUNNING, TrialState.WAITING)
        tried = {known.arch for known in self.known()}
        for trial in self.study.get_trials(deepcopy=False, states=states):
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if params.keys() == self.space.choices().keys():
                tried.add(self.space.decode(params))
        return tried

    def counted(self, arch: Any) -> dict[str, float]:
        """Costs that need no measuring."""
        params = self.judge.meter.count(arch).params
        return {
            "params": params,
            "params_of_largest": params / self.judge.meter.largest_counts.params,
        }

    def make_sampler(self, seed: int) -> BaseSampler:
        """The sampler that runs on the predictors."""
        sampler: BaseSampler = build(self.config.search.sampler, "search.sampler", seed=seed)
        return sampler

    def cross_validated(self) -> dict[str, CrossValidation]:
        """How far off the predictors are, by what they predict; empty where none ran."""
        known = [k for k in self.known() if is_complete(k.costs)]
        if self.config.search.strategy != "guided" or len(known) < MIN_KNOWN:
            return {}
        return self.guide.cross_validated(known)


def judged_costs(candidate: Mapping[str, Any], bounds: Mapping[str, float]) -> dict[str, Any]:
    """The candidate's figures, of a latency with a budget the end of its interval that is judged.

    Of one with a window, which judges both ends, the median.
    """
    costs = dict(candidate)
    for key, bound in bounds.items():
        figure_key = key.removeprefix(MIN)
        if figure_key.startswith("latency") and not {figure_key, MIN + figure_key} <= bounds.keys():
            sign = -1 if key.startswith(MIN) else 1
            costs[figure_key] = bound * (1 + sign * excess(candidate, key, bound, worse=True))
    return costs
