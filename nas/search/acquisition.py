"""Which architectures to judge next: the most promising by predictors of score and costs.

The loop of LINAS (Cummings et al., 2022, https://arxiv.org/abs/2205.10358): judge some, fit
predictors to all that is known, search on the predictors, judge the best of what was found.
Letters: m architectures, F features, K objectives.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from random import Random
from typing import Generic, NamedTuple

import numpy as np
from optuna.samplers import NSGAIISampler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nas.budgets import Budgets
from nas.results import Prediction
from nas.search.gaussian_process import Floats
from nas.search.initial_design import Count, Tried, initial_design
from nas.search.predictors import MIN_KNOWN, Predictor, cross_validate, fit, pick
from nas.search.surrogate import (
    BATCH,
    OBJECTIVES,
    MakeSampler,
    Pool,
    Posterior,
    Surrogate,
    enumerated,
    features_of,
    mutants,
    search_predicted,
)
from search_spaces.space import ArchT, Space

ENUMERABLE = 20_000  # assignments; larger spaces are searched
NUM_PARENTS = 10
MAX_FITTED = 300  # counts, the latest, that a predictor of them is fitted to
MAX_COUNTED = 40  # exact counts that one proposal may take, tens of milliseconds each
BAND = 0.1  # relative distance to a bound that counts as near


class Known(NamedTuple, Generic[ArchT]):
    """What was judged: how good it is, higher being better, and all its figures by cost."""

    arch: ArchT
    worth: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Predicted(Generic[ArchT]):
    """What was predicted when `num_known` were known."""

    num_known: int
    pool: Pool[ArchT]
    posterior: Posterior  # of the pool's architectures


@dataclass
class Acquisition(Generic[ArchT]):
    """Proposes architectures for a space under budgets, from what was judged so far.

    `exact` counts figures that need no measuring; whatever is proposed meets their bounds, unless
    nothing that does was found. Other costs and scores are predicted. `refit_every` is how much
    more must be known before predictors are fitted again.
    """

    space: Space[ArchT]
    budgets: Budgets
    objective: str = "best"
    exact: Count[ArchT] | None = None
    sampler: MakeSampler = lambda seed: NSGAIISampler(seed=seed, population_size=BATCH)
    refit_every: int = 5
    everything: Pool[ArchT] | None = None  # `enumerated(space)`, if it is at hand
    archs: Sequence[ArchT] | None = None  # all that may be proposed, None for the whole space
    predicted: Predicted[ArchT] | None = field(default=None, init=False)
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict, init=False)
    counted: dict[ArchT, Mapping[str, float]] = field(default_factory=dict, init=False)

    def propose(
        self,
        known: Sequence[Known[ArchT]],
        running: Collection[ArchT],
        generator: Random,
        *,
        count: int = 1,
    ) -> list[ArchT]:
        """Up to `count` architectures, none known or running; fewer if no more are left."""
        tried = {judged.arch for judged in known} | set(running)
        chosen: list[ArchT] = []
        if len(known) >= MIN_KNOWN:
            chosen = self.best(self.predict(known, generator), tried, generator, count)
        tried.update(chosen)
        return chosen + self.start(count - len(chosen), generator, tried.__contains__)

    def start(
        self, count: int, generator: Random, tried: Tried[ArchT] = lambda _: False
    ) -> list[ArchT]:
        """The initial design, of what may be proposed."""
        if self.archs is not None:
            left = [arch for arch in self.archs if not tried(arch)]
            return generator.sample(left, min(count, len(left)))
        return initial_design(
            self.space, count, generator, self.count_exactly, self.budgets, tried=tried
        )

    def count_exactly(self, arch: ArchT) -> Mapping[str, float]:
        if arch not in self.counted:
            self.counted[arch] = self.exact(arch) if self.exact else {}
        return self.counted[arch]

    def costs(self) -> list[str]:
        """Those that budgets or objectives need."""
        bounded = [bound.cost for bound in self.budgets]
        return list(dict.fromkeys([*bounded, *OBJECTIVES[self.objective]]))

    def predict(self, known: Sequence[Known[ArchT]], generator: Random) -> Predicted[ArchT]:
        """The latest predictions, renewed when enough more is known."""
        if self.predicted is None or len(known) >= self.predicted.num_known + self.refit_every:
            with threadpool_limits(limits=1):  # small matrices; the cores are for judging
                surrogate = self.surrogate(known)
                pool = self.pool(known, surrogate, generator)
                posterior = surrogate.posterior(pool.features).of(pool.places)
            self.predicted = Predicted(len(known), pool, posterior)
        return self.predicted

    def surrogate(self, known: Sequence[Known[ArchT]]) -> Surrogate:
        """Fitted to all that is known."""
        archs = [judged.arch for judged in known]
        features = features_of(self.space, archs)
        countable = self.count_exactly(archs[0]).keys()
        for judged in known:  # after a restart, counting all of them again would take long
            figures = {cost: judged.figures[cost] for cost in countable}
            self.counted.setdefault(judged.arch, figures)
        costs = {}
        for cost in self.costs():
            if cost in countable:
                costs[cost] = self.fit_counted(cost)
            else:
                costs[cost] = self.fit(cost, features, [j.figures[cost] for j in known], "log")
        score = self.fit("score", features, [judged.worth for judged in known], "rank")
        return Surrogate(self.budgets, self.objective, score, costs, countable)

    def fit_counted(self, cost: str) -> Predictor:
        """From all that was counted, known or not. Counts are sums and products of sizes."""
        archs = list(self.counted)[-MAX_FITTED:]
        targets = [self.counted[arch][cost] for arch in archs]
        return self.fit(cost, features_of(self.space, archs), targets, "plain")

    def fit(self, name: str, features: Floats, targets: Sequence[float], scale: str) -> Predictor:
        """With the kind that predicts best, picked again when twice as much is known."""
        values = np.array(targets, float)
        num_known, kind = self.kinds.get(name, (0, ""))
        if len(values) >= 2 * num_known:
            kind = pick(features, values, scale)
            self.kinds[name] = len(values), kind
        return fit(features, values, kind, scale)

    def pool(
        self, known: Sequence[Known[ArchT]], surrogate: Surrogate, generator: Random
    ) -> Pool[ArchT]:
        """The whole space where it is small, else what a search on the predictors comes by."""
        if self.archs is not None and self.everything is None:
            self.everything = Pool.of(self.space, self.archs)
        if self.everything is None and prod(map(len, self.space.choices().values())) > ENUMERABLE:
            parents = [judged.arch for judged in self.ranked(known)[:NUM_PARENTS]]
            sampler = self.sampler(seed=generator.getrandbits(32))
            found = search_predicted(self.space, surrogate, parents, sampler)
            return Pool.of(self.space, [*found, *mutants(self.space, parents, generator)])
        if self.everything is None:
            self.everything = enumerated(self.space)
        return self.everything

    def ranked(self, known: Sequence[Known[ArchT]]) -> list[Known[ArchT]]:
        """The best first: those within the budgets by score, then by how far they are off."""
        return sorted(known, key=lambda j: (self.budgets.total_excess(j.figures), -j.worth))

    def best(
        self,
        predicted: Predicted[ArchT],
        tried: Collection[ArchT],
        generator: Random,
        count: int,
    ) -> list[ArchT]:
        """Each the best of an own draw from the posterior, under an own weighting of objectives.

        Draws are independent, as in BANANAS (White et al., 2021, https://arxiv.org/abs/1910.11858).
        Several objectives are weighted as in ParEGO (Knowles, 2006, doi:10.1109/TEVC.2005.851274).
        """
        random = np.random.default_rng(generator.getrandbits(64))
        posterior = predicted.posterior
        chosen: list[ArchT] = []
        left = MAX_COUNTED
        for _ in range(count):
            drawn = random.normal(posterior.means, posterior.spreads)
            loss = tchebycheff(drawn, random.dirichlet(np.ones(drawn.shape[1])))
            for place in np.lexsort((loss, posterior.excess)):
                arch = predicted.pool.archs[place]
                if arch in tried or arch in chosen:
                    continue
                left -= arch not in self.counted
                if self.budgets.total_excess(self.count_exactly(arch)) == 0:
                    chosen.append(arch)
                    break
                if left <= 0:
                    return chosen
        return chosen

    def cross_validated(self, known: Sequence[Known[ArchT]]) -> dict[str, Prediction]:
        """How far off the predictors are: of the score, of each cost, and of latency.

        The band of a cost is what lies near a bound of it, that of the score near any bound.
        """
        features = features_of(self.space, [judged.arch for judged in known])
        costs = dict.fromkeys([*self.costs(), "latency_of_largest"])
        measured = {cost: np.array([j.figures[cost] for j in known], float) for cost in costs}
        near = {cost: np.zeros(len(known), bool) for cost in measured}
        for bound in self.budgets:
            near[bound.cost] |= np.abs(measured[bound.cost] / bound.limit - 1) <= BAND
        countable = self.count_exactly(known[0].arch)
        near["score"] = np.any(list(near.values()), axis=0)
        scales = {cost: "plain" if cost in countable else "log" for cost in costs}
        targets = {"score": np.array([judged.worth for judged in known], float), **measured}
        found = {}
        for name, values in targets.items():
            scale = scales.get(name, "rank")
            # Of the kind that proposed; what only the report asks for has none yet.
            kind = self.kinds[name][1] if name in self.kinds else pick(features, values, scale)
            found[name] = cross_validate(features, values, kind, scale, band=near[name])
        return found


def tchebycheff(values: Floats, weights: Floats) -> Floats:
    """Augmented Tchebycheff distance (m,) to the best of each objective; values (m, K) are high.

    Knowles, 2006, doi:10.1109/TEVC.2005.851274.
    """
    short = weights * (values.max(0) - values)
    return short.max(1) + 0.05 * short.sum(1)
