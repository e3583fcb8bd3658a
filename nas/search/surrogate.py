"""Predictors of score and costs together, and what is asked of them: all architectures of a small
space, or those that a search on the predictors finds.

Letters: m architectures, u different ones by their features, F features, K objectives.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Generic

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from nas.budgets import Budgets
from nas.search.gaussian_process import Floats
from nas.search.predictors import Predictor
from nas.search.study import suggest
from search_spaces.space import ArchT, Space

OBJECTIVES: dict[str, tuple[str, ...]] = {  # costs to be low, besides a high score
    "best": (),
    "pareto": ("latency_of_largest", "params"),
}
MARGIN = 1.0  # spreads of a predicted cost; without it a third of what is proposed is too slow
TRIALS, BATCH = 300, 50  # of a search on the predictors
NUM_MUTANTS = 200

MakeSampler = Callable[..., BaseSampler]  # called with seed


@dataclass(frozen=True)
class Posterior:
    """Means and standard deviations of each architecture's objectives, which are to be high."""

    means: Floats  # (u, K), the score first
    spreads: Floats  # (u, K)
    excess: Floats  # (u,), 0 where every bound is expected to be met, else how far from it

    def of(self, places: NDArray[np.intp]) -> "Posterior":
        return Posterior(self.means[places], self.spreads[places], self.excess[places])


@dataclass(frozen=True)
class Surrogate:
    """Predictors of everything that the budgets and the objective need."""

    budgets: Budgets
    objective: str
    score: Predictor
    costs: Mapping[str, Predictor]
    counted: Collection[str]  # costs that are checked before an architecture is proposed

    def posterior(self, features: Floats) -> Posterior:
        """Of features (u, F). A cost that must be measured is to meet its bounds with a margin."""
        lows = OBJECTIVES[self.objective]
        means, spreads = {}, {}
        for cost, predictor in self.costs.items():
            if cost in self.counted and cost not in lows:
                means[cost], spreads[cost] = predictor.scores(features), np.zeros(len(features))
            else:
                means[cost], spreads[cost] = predictor.posterior(features)
        excess = np.zeros(len(features))
        for bound in self.budgets:
            cost = bound.cost
            limit = self.costs[cost].scale.to_scores(np.array(bound.limit))
            over = limit - means[cost] if bound.is_lower else means[cost] - limit
            excess += np.maximum(over + MARGIN * spreads[cost], 0)
        score, unsure = self.score.posterior(features)
        return Posterior(
            np.stack([score, *(-means[cost] for cost in lows)], 1),
            np.stack([unsure, *(spreads[cost] for cost in lows)], 1),
            excess,
        )


@dataclass(frozen=True)
class Pool(Generic[ArchT]):
    """Distinct architectures; `features` (u, F) are distinct too, `places` (m,) says whose."""

    archs: Sequence[ArchT]
    features: Floats
    places: NDArray[np.intp]

    @classmethod
    def of(cls, space: Space[ArchT], archs: Iterable[ArchT]) -> "Pool[ArchT]":
        distinct = list(dict.fromkeys(archs))
        features, places = np.unique(features_of(space, distinct), axis=0, return_inverse=True)
        return cls(distinct, features, places)


def enumerated(space: Space[ArchT]) -> Pool[ArchT]:
    """All architectures of a space that is small enough."""
    choices = space.choices()
    assignments = product(*choices.values())
    archs = (space.decode(dict(zip(choices, values, strict=True))) for values in assignments)
    return Pool.of(space, archs)


def features_of(space: Space[ArchT], archs: Sequence[ArchT]) -> Floats:
    """(m, F)"""
    return np.array([space.features(arch) for arch in archs], float)


def search_predicted(
    space: Space[ArchT],
    surrogate: Surrogate,
    parents: Sequence[ArchT],
    sampler: BaseSampler,
) -> list[ArchT]:
    """What an Optuna study asks for whose trials are predicted, all trials of a batch at once.

    Its objectives are optimistic, by one spread, so that it looks at what is little known.
    """
    found: list[ArchT] = []
    num_objectives = 1 + len(OBJECTIVES[surrogate.objective])
    study = optuna.create_study(directions=["maximize"] * num_objectives, sampler=sampler)
    for arch in parents:
        study.enqueue_trial(dict(space.encode(arch)))
    while len(found) < TRIALS:
        trials = [study.ask() for _ in range(BATCH)]
        found += [suggest(trial, space) for trial in trials]
        posterior = surrogate.posterior(features_of(space, found[-BATCH:]))
        hopes = posterior.means + posterior.spreads
        for trial, hope, excess in zip(trials, hopes, posterior.excess, strict=True):
            trial.set_constraint("bounds", float(excess))
            study.tell(trial, hope.tolist())
    return found


def mutants(space: Space[ArchT], parents: Sequence[ArchT], generator: Random) -> list[ArchT]:
    """Parents with one to three of their choices drawn again."""
    choices, found = space.choices(), []
    for _ in range(NUM_MUTANTS):
        parent = generator.choice(parents)
        names = generator.sample(list(space.active(parent)), k=1)
        names += generator.sample(list(choices), k=min(generator.randrange(3), len(choices)))
        drawn = {name: generator.choice(choices[name]) for name in names}
        found.append(space.decode(space.encode(parent) | drawn))
    return found
