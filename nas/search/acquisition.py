"""Which architectures to judge next: the most promising by predictors of accuracy and costs.

The loop of LINAS (Cummings et al., 2022, https://arxiv.org/abs/2205.10358): judge some, fit
predictors to all that is known, search on the predictors, judge the best of what was found.
Letters: m candidates, F features, K objectives.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from random import Random
from typing import Any, Generic, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, NSGAIISampler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nas.checks import check
from nas.config.sections import MIN
from nas.search.initial_design import Exact, space_filling, violation
from nas.search.predictors import (
    MIN_KNOWN,
    CrossValidation,
    Floats,
    Predictor,
    cross_validate,
    fit,
    pick,
)
from search_spaces.space import ArchT, Space

MakeSampler = Callable[[int], BaseSampler]  # from a seed

OBJECTIVES: dict[str, tuple[str, ...]] = {  # costs to be low, besides a high accuracy
    "best": (),
    "pareto": ("latency_of_largest", "params"),
}
ENUMERABLE = 20_000  # assignments; larger spaces are searched
TRIALS, BATCH = 300, 50  # of a search on the predictors
NUM_PARENTS, NUM_MUTANTS = 10, 200
MAX_FITTED = 300  # counts, the latest, that a predictor of them is fitted to
MAX_COUNTED = 40  # exact counts that one proposal may take, tens of milliseconds each
MARGIN = 1.0  # spreads of a cost's forecast; without it a third of what is proposed is too slow
BAND = 0.1  # relative distance to a bound that counts as near


class Known(NamedTuple, Generic[ArchT]):
    """What was judged: `costs` have at least one entry for each bound, under its key."""

    arch: ArchT
    accuracy: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Candidates(Generic[ArchT]):
    """Distinct architectures; `features` (u, F) are distinct too, `places` (m,) says whose."""

    archs: Sequence[ArchT]
    features: Floats
    places: NDArray[np.intp]

    @classmethod
    def of(cls, space: Space[ArchT], archs: Iterable[ArchT]) -> "Candidates[ArchT]":
        distinct = list(dict.fromkeys(archs))
        features, places = np.unique(features_of(space, distinct), axis=0, return_inverse=True)
        return cls(distinct, features, places)


@dataclass(frozen=True)
class Models:
    accuracy: Predictor
    costs: Mapping[str, Predictor]
    counted: Collection[str]  # keys of costs that are checked before an architecture is proposed


@dataclass(frozen=True)
class Forecast:
    """Scores and how unsure they are, of each candidate; each objective is to be high."""

    objectives: Floats  # (m, K), accuracy first
    spreads: Floats  # (m, K)
    excess: Floats  # (m,), 0 where every bound is expected to be met, else how far from it

    def of(self, places: NDArray[np.intp]) -> "Forecast":
        return Forecast(self.objectives[places], self.spreads[places], self.excess[places])


@dataclass(frozen=True)
class Outlook(Generic[ArchT]):
    """What is expected while no more than `num_known` are known."""

    num_known: int
    candidates: Candidates[ArchT]
    forecast: Forecast


@dataclass
class Guide(Generic[ArchT]):
    """Proposes architectures for a space under bounds, from what was judged so far.

    `bounds` are upper ones under the key of a cost, lower ones under `min_` and the key. `exact`
    counts costs that need no measuring; whatever is proposed meets their bounds, unless nothing
    that does was found. Other costs and accuracies are predicted. `refit_every` is how much more
    must be known before predictors are fitted again. Raises ValueError for unknown names.
    """

    space: Space[ArchT]
    bounds: Mapping[str, float]
    objective: str = "best"
    kind: str = "auto"
    exact: Exact[ArchT] | None = None
    sampler: MakeSampler = lambda seed: NSGAIISampler(seed=seed, population_size=BATCH)
    refit_every: int = 5
    everything: Candidates[ArchT] | None = None  # `enumerated(space)`, if it is at hand
    pool: Sequence[ArchT] | None = None  # all that may be proposed, None for the whole space
    outlook: Outlook[ArchT] | None = field(default=None, init=False)
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict, init=False)
    counted: dict[ArchT, Mapping[str, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        known = tuple(OBJECTIVES)
        check("objective", self.objective in known, f"one of {known}", self.objective)
        check("refit_every", self.refit_every > 0, "positive", self.refit_every)

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
            chosen = self.best(self.look(known, generator), tried, generator, count)
        missing = count - len(chosen)
        return chosen + self.start(missing, generator, tried | set(chosen))

    def start(self, count: int, generator: Random, tried: Collection[ArchT] = ()) -> list[ArchT]:
        """As `space_filling`, for the first ones."""
        if self.pool is not None:
            left = [arch for arch in self.pool if arch not in tried]
            return generator.sample(left, min(count, len(left)))
        return space_filling(
            self.space, count, generator, self.count_exactly, self.bounds, tried=tried
        )

    def count_exactly(self, arch: ArchT) -> Mapping[str, float]:
        if arch not in self.counted:
            self.counted[arch] = self.exact(arch) if self.exact else {}
        return self.counted[arch]

    def cost_keys(self) -> list[str]:
        """The costs that bounds or objectives need."""
        keys = [key.removeprefix(MIN) for key in self.bounds]
        return list(dict.fromkeys([*keys, *OBJECTIVES[self.objective]]))

    def look(self, known: Sequence[Known[ArchT]], generator: Random) -> Outlook[ArchT]:
        """The latest outlook, renewed when enough more is known."""
        if self.outlook is None or len(known) >= self.outlook.num_known + self.refit_every:
            with threadpool_limits(limits=1):  # small matrices; the cores are for judging
                models = self.fitted(known)
                candidates = self.candidates(known, models, generator)
                forecast = self.forecast(candidates.features, models).of(candidates.places)
            self.outlook = Outlook(len(known), candidates, forecast)
        return self.outlook

    def fitted(self, known: Sequence[Known[ArchT]]) -> Models:
        archs = [judged.arch for judged in known]
        features = features_of(self.space, archs)
        countable = self.count_exactly(archs[0]).keys()
        for judged in known:  # after a restart, counting all of them again would take long
            if countable <= judged.costs.keys():
                self.counted.setdefault(judged.arch, {key: judged.costs[key] for key in countable})
            else:
                self.count_exactly(judged.arch)
        costs = {}
        for key in self.cost_keys():
            if key in countable:
                costs[key] = self.fit_counted(key)
            else:
                costs[key] = self.fit(key, features, [j.costs[key] for j in known], "log")
        accuracies = [judged.accuracy for judged in known]
        return Models(self.fit("accuracy", features, accuracies, "rank"), costs, countable)

    def fit_counted(self, key: str) -> Predictor:
        """From all that was counted, known or not. Counts are sums and products of sizes."""
        archs = list(self.counted)[-MAX_FITTED:]
        targets = [self.counted[arch][key] for arch in archs]
        return self.fit(key, features_of(self.space, archs), targets, "plain")

    def fit(self, name: str, features: Floats, targets: Sequence[float], scale: str) -> Predictor:
        """With the kind that was asked for; auto picks again when twice as much is known."""
        num_known, kind = self.kinds.get(name, (0, self.kind))
        if self.kind == "auto" and len(targets) >= 2 * num_known:
            kind = pick(features, targets, scale)
            self.kinds[name] = len(targets), kind
        return fit(features, targets, kind=kind, scale=scale)

    def candidates(
        self, known: Sequence[Known[ArchT]], models: Models, generator: Random
    ) -> Candidates[ArchT]:
        """The whole space where it is small, else what a search on the predictors comes by."""
        choices = self.space.choices()
        if self.pool is not None and self.everything is None:
            self.everything = Candidates.of(self.space, self.pool)
        if self.everything is None and prod(map(len, choices.values())) > ENUMERABLE:
            parents = [judged.arch for judged in self.ranked(known)[:NUM_PARENTS]]
            found = self.search(models, parents, generator)
            return Candidates.of(self.space, [*found, *self.mutants(parents, generator)])
        if self.everything is None:
            self.everything = enumerated(self.space)
        return self.everything

    def ranked(self, known: Sequence[Known[ArchT]]) -> list[Known[ArchT]]:
        """The best first: those within the bounds by accuracy, then by how far they are off."""
        return sorted(
            known, key=lambda judged: (violation(judged.costs, self.bounds), -judged.accuracy)
        )

    def search(self, models: Models, parents: Sequence[ArchT], generator: Random) -> list[ArchT]:
        """What an Optuna study asks for whose trials are predicted, all trials of a batch at once.

        Its objectives are optimistic, by one spread, so that it looks at what is little known.
        """
        choices, found = self.space.choices(), list[ArchT]()
        study = optuna.create_study(
            directions=["maximize"] * (1 + len(OBJECTIVES[self.objective])),
            sampler=self.sampler(generator.getrandbits(32)),
        )
        for arch in parents:
            study.enqueue_trial(dict(self.space.encode(arch)))
        while len(found) < TRIALS:
            trials = [study.ask() for _ in range(BATCH)]
            for trial in trials:
                values: dict[str, Any] = {
                    name: trial.suggest_categorical(name, options)
                    for name, options in choices.items()
                }
                found.append(self.space.decode(values))
            features = features_of(self.space, found[-BATCH:])
            forecast = self.forecast(features, models)
            hopes = forecast.objectives + forecast.spreads
            for trial, hope, excess in zip(trials, hopes, forecast.excess, strict=True):
                trial.set_constraint("bounds", float(excess))
                study.tell(trial, hope.tolist())
        return found

    def mutants(self, parents: Sequence[ArchT], generator: Random) -> list[ArchT]:
        """Parents with one to three of their choices drawn again."""
        choices, found = self.space.choices(), []
        for _ in range(NUM_MUTANTS):
            parent = generator.choice(parents)
            names = generator.sample(list(self.space.active(parent)), k=1)
            names += generator.sample(list(choices), k=min(generator.randrange(3), len(choices)))
            drawn = {name: generator.choice(choices[name]) for name in names}
            found.append(self.space.decode(self.space.encode(parent) | drawn))
        return found

    def forecast(self, features: Floats, models: Models) -> Forecast:
        """Of features (u, F). A cost that must be measured is to meet its bounds with a margin."""
        lows = OBJECTIVES[self.objective]
        means, spreads = {}, {}
        for key, model in models.costs.items():
            if key in models.counted and key not in lows:
                means[key], spreads[key] = model.scores(features), np.zeros(len(features))
            else:
                means[key], spreads[key] = model.forecast(features)
        excess = np.zeros(len(features))
        for name, bound in self.bounds.items():
            key = name.removeprefix(MIN)
            limit = models.costs[key].scale.to_scores(np.array(bound))
            over = means[key] - limit if key == name else limit - means[key]
            excess += np.maximum(over + MARGIN * spreads[key], 0)
        accuracy, unsure = models.accuracy.forecast(features)
        return Forecast(
            np.stack([accuracy, *(-means[key] for key in lows)], 1),
            np.stack([unsure, *(spreads[key] for key in lows)], 1),
            excess,
        )

    def best(
        self,
        outlook: Outlook[ArchT],
        tried: Collection[ArchT],
        generator: Random,
        count: int,
    ) -> list[ArchT]:
        """Each the best of an own draw from the forecast, under an own weighting of objectives.

        Draws are independent, as in BANANAS (White et al., 2021, https://arxiv.org/abs/1910.11858).
        Several objectives are weighted as in ParEGO (Knowles, 2006, doi:10.1109/TEVC.2005.851274).
        """
        random = np.random.default_rng(generator.getrandbits(64))
        forecast = outlook.forecast
        chosen: list[ArchT] = []
        left = MAX_COUNTED
        for _ in range(count):
            drawn = random.normal(forecast.objectives, forecast.spreads)
            loss = tchebycheff(drawn, random.dirichlet(np.ones(drawn.shape[1])))
            for place in np.lexsort((loss, forecast.excess)):
                arch = outlook.candidates.archs[place]
                if arch in tried or arch in chosen:
                    continue
                left -= arch not in self.counted
                if violation(self.count_exactly(arch), self.bounds) == 0:
                    chosen.append(arch)
                    break
                if left <= 0:
                    return chosen
        return chosen

    def cross_validated(self, known: Sequence[Known[ArchT]]) -> dict[str, CrossValidation]:
        """How far off the predictors are: of accuracy, of each cost by its key, and of latency.

        The band of a cost is what lies near a bound of it, that of accuracy near any bound.
        """
        features = features_of(self.space, [judged.arch for judged in known])
        keys = [key for key in (*self.cost_keys(), "latency_of_largest") if key in known[0].costs]
        near = {key: np.zeros(len(known), bool) for key in keys}
        for name, bound in self.bounds.items():
            key = name.removeprefix(MIN)
            costs = np.array([judged.costs[key] for judged in known])
            near[key] |= np.abs(costs / bound - 1) <= BAND
        accuracies = [judged.accuracy for judged in known]
        band = np.any(list(near.values()), axis=0) if near else None
        countable = self.count_exactly(known[0].arch)
        # Of the kinds that proposed; what only the report asks for has none yet.
        kinds = {name: self.kinds.get(name, (0, self.kind))[1] for name in ("accuracy", *near)}
        found = {
            "accuracy": cross_validate(
                features, accuracies, kind=kinds["accuracy"], scale="rank", band=band
            )
        }
        for key in near:
            costs = np.array([judged.costs[key] for judged in known])
            scale = "plain" if key in countable else "log"
            found[key] = cross_validate(
                features, costs, kind=kinds[key], scale=scale, band=near[key]
            )
        return found


def enumerated(space: Space[ArchT]) -> Candidates[ArchT]:
    """All architectures of a space that is small enough."""
    choices = space.choices()
    assignments = product(*choices.values())
    archs = (space.decode(dict(zip(choices, values, strict=True))) for values in assignments)
    return Candidates.of(space, archs)


def features_of(space: Space[ArchT], archs: Sequence[ArchT]) -> Floats:
    """(m, F)"""
    return np.array([space.features(arch) for arch in archs])


def tchebycheff(values: Floats, weights: Floats) -> Floats:
    """Augmented Tchebycheff distance (m,) to the best of each objective; values (m, K) are high.

    Knowles, 2006, doi:10.1109/TEVC.2005.851274.
    """
    short = weights * (values.max(0) - values)
    return short.max(1) + 0.05 * short.sum(1)
