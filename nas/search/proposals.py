"""What a search tries next: random draws at first, then its sampler, or predictors."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

from nas.budgets import Budgets
from nas.config.config import Config
from nas.config.instantiate import build
from nas.records import Candidate, Costs
from nas.results import Prediction
from nas.search.acquisition import Acquisition, Known
from nas.search.evaluator import Evaluator
from nas.search.history import History
from nas.search.predictors import MIN_KNOWN
from nas.search.study import Origin
from search_spaces.space import Arch, Option

Proposal = tuple[Mapping[str, Option] | None, Origin]


class Proposals:
    """Proposes one trial after another for one worker of a study.

    Only what the meter has costs of is proposed.
    """

    def __init__(self, config: Config, history: History, evaluator: Evaluator, seed: int) -> None:
        self.settings, self.space = config.search, config.space
        self.history, self.evaluator = history, evaluator
        self.generator = Random(seed)
        self.queue: deque[Arch] = deque()
        self.acquisition = Acquisition[Arch](
            self.space,
            config.budget,
            objective=self.settings.objective,
            exact=self.counted,
            sampler=partial(build, self.settings.sampler, "search.sampler"),
            refit_every=self.settings.round,
            archs=evaluator.meter.archs(),
        )

    def next(self) -> Proposal | None:
        """Parameters of the next trial, None where the sampler chooses; None if none is left."""
        origin: Origin = "guide"
        if self.history.num_trials < self.settings.start:
            archs, origin = self.acquisition.start(1, self.generator, self.is_tried), "start"
        elif self.settings.strategy == "direct":
            return None, "sampler"
        else:
            archs = self.guided()
        return (self.space.encode(archs[0]), origin) if archs else None

    def guided(self) -> list[Arch]:
        """The next of the queue that nobody has taken up; a new queue when it is empty."""
        while self.queue and self.is_tried(self.queue[0]):
            self.queue.popleft()
        if not self.queue:
            known = self.known(self.evaluator.candidates())
            running, count = self.history.running, self.settings.round
            self.queue += self.acquisition.propose(known, running, self.generator, count=count)
        return [self.queue.popleft()] if self.queue else []

    def is_tried(self, arch: Arch) -> bool:
        """Whether an architecture was judged, or some worker is at it."""
        return arch in self.evaluator.known or arch in self.history.running

    def known(self, candidates: Sequence[Candidate[Arch]]) -> list[Known[Arch]]:
        """What was judged, latencies by the end of their interval that a budget judges them by.

        A score on a part of the split is less certain but not wrong.
        """
        budgets = self.acquisition.budgets
        return [Known(c.arch, c.score.worth, judged_figures(c.costs, budgets)) for c in candidates]

    def counted(self, arch: Arch) -> dict[str, float]:
        """Figures that need no measuring."""
        params = self.evaluator.meter.counts(arch).params
        of_largest = params / self.evaluator.meter.largest_counts.params
        return {"params": params, "params_of_largest": of_largest}

    def cross_validated(self) -> dict[str, Prediction]:
        """How far off the predictors are, by what they predict; empty where none ran."""
        candidates = [c for c in self.evaluator.candidates() if c.score.complete]
        if self.settings.strategy != "guided" or len(candidates) < MIN_KNOWN:
            return {}
        return self.acquisition.cross_validated(self.known(candidates))


def judged_figures(costs: Costs, budgets: Budgets) -> dict[str, float]:
    """Of each cost the figure, of one with a budget the end of its interval that is judged.

    Of one with a window, which judges both ends, the figure.
    """
    figures = costs.figures()
    num_bounds = Counter(bound.cost for bound in budgets)
    for bound in budgets:
        if num_bounds[bound.cost] == 1:
            low, high = costs.interval(bound.cost)
            figures[bound.cost] = low if bound.is_lower else high
    return figures
