"""Paths picked among uniform candidates by the gradient norm expected of each.

For spaces whose choices interact: a distribution factorised over choices, as in `path_importance`,
cannot follow norms that are not a product of their choices' parts.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from search_spaces.space import Space
from supernet.sampling.annealing import weakest
from supernet.sampling.path_importance import STRENGTHS, Draw, PathImportance
from supernet.sampling.paths import Path, PathGradient

FITTED = 2048  # draws on which the regression is fitted
ENOUGH = 64  # new draws before it is judged and fitted again
RIDGE = 1.0  # penalty of the regression, in draws
MOST_OPTIONS = 64  # whose pairs are fitted: the time grows with the sixth power
LEAST_NORM = 1e-3  # of the median one: a norm of zero would outweigh all others as a logarithm


class CandidatePaths(PathImportance):
    """One subnet a step, picked among uniform candidates by the gradient norm expected of each.

    Weighted by the candidates' mean expected norm over its own, which is bounded and leaves the
    estimate unbiased whatever is expected (sampling importance resampling: Rubin, 1988). The
    logarithm of the norm is a ridge regression on the options in use and, with `interactions`, on
    their pairs, fitted on the latest draws.
    """

    def __init__(
        self,
        num_candidates: int = 8,
        floor: float = 0.2,
        annealing: float = 0.1,
        interactions: bool = False,
        weighted: bool = True,
        *,
        space: Space[Any],
    ) -> None:
        if not isinstance(num_candidates, int) or num_candidates < 2:
            raise ValueError(f"num_candidates must be an integer above 1, got {num_candidates!r}")
        super().__init__(floor, annealing, weighted, FITTED, space)
        if interactions and len(self.columns) > MOST_OPTIONS:
            raise ValueError(
                f"interactions must be false in a space of more than {MOST_OPTIONS} options, "
                f"got {len(self.columns)}"
            )
        self.num_candidates = num_candidates
        self.interactions = interactions
        num_columns = len(self.columns)
        self.coefficients = [0.0] * (num_columns + interactions * num_columns**2)
        self.scale = 1.0  # the mean of expected norms to the power of the strength
        self.fresh = 0  # draws since the last fit

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.share = self.annealing.share(epoch, epochs)
        if self.fresh < ENOUGH:
            return
        fresh = list(self.draws)[-self.fresh :]
        moments = {strength: self.second_moment(fresh, strength) for strength in STRENGTHS}
        self.strength = weakest(moments) if self.weighted else 1.0
        self.gain = moments[self.strength] / moments[0.0] if moments[0.0] else 1.0
        self.fit()
        self.fresh = 0
        norms = [self.expected(draw.columns) ** self.strength for draw in self.draws]
        self.scale = mean_of(norms, [draw.ratio for draw in self.draws])

    def draw(self, generator: Random) -> list[Path]:
        archs = [self.space.sample(generator) for _ in range(self.num_candidates)]
        importances = [self.importance(self.columns_of(arch)) for arch in archs]
        (place,) = generator.choices(range(len(archs)), importances)
        mean = sum(importances) / len(importances)
        return [self.path(archs[place], mean / importances[place])]

    def observe(self, path: Path, gradient: PathGradient) -> None:
        self.draws.append(Draw(self.columns_of(path.arch), path.ratio, gradient.path**2))
        self.fresh = min(self.fresh + 1, FITTED)

    def importance(self, columns: Sequence[int]) -> float:
        """A share by the expected norm, the rest uniform; the mean over uniform paths is near 1."""
        norm = self.expected(columns) ** self.strength / self.scale
        return 1 + self.share * (norm - 1)

    def expected(self, columns: Sequence[int]) -> float:
        """The norm expected of a path's gradient, relative to the mean's."""
        return math.exp(sum(self.coefficients[feature] for feature in self.features(columns)))

    def features(self, columns: Sequence[int]) -> list[int]:
        """The features of a path that are one; all others are zero."""
        features = list(columns)
        if self.interactions:
            size = len(self.columns)
            features += [size + a * size + b for i, a in enumerate(columns) for b in columns[:i]]
        return features

    def second_moment(self, draws: Sequence[Draw], strength: float) -> float:
        """Of the estimate that a strength would give with independent candidates.

        E[mean_k r_k . mean_k |g_k|^2 / r_k] for importances r of K candidates.
        """
        weights = [draw.ratio for draw in draws]
        norms = [self.expected(draw.columns) ** strength for draw in draws]
        scale = mean_of(norms, weights)
        importances = [1 + self.share * (norm / scale - 1) for norm in norms]
        squares = [draw.squared_norm for draw in draws]
        ratios = [square / r for square, r in zip(squares, importances, strict=True)]
        crossed = mean_of(importances, weights) * mean_of(ratios, weights)
        share = 1 / self.num_candidates
        return share * mean_of(squares, weights) + (1 - share) * crossed

    def fit(self) -> None:
        design = torch.zeros(len(self.draws), len(self.coefficients), dtype=torch.float64)
        for row, draw in zip(design, self.draws, strict=True):
            row[self.features(draw.columns)] = 1
        norms = torch.tensor([draw.squared_norm for draw in self.draws], dtype=torch.float64).sqrt()
        logs = norms.clamp(min=max(LEAST_NORM * float(norms.median()), 1e-30)).log()
        gram = design.T @ design + RIDGE * torch.eye(design.shape[1], dtype=torch.float64)
        found = torch.linalg.solve(gram, design.T @ (logs - logs.mean()))
        self.coefficients = found.tolist()

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.common_state(),
            "coefficients": list(self.coefficients),
            "scale": self.scale,
            "fresh": self.fresh,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_common_state(state, {"coefficients", "scale", "fresh"})
        self.coefficients = list(state["coefficients"])
        self.scale, self.fresh = state["scale"], state["fresh"]


def mean_of(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean: over uniform paths, from draws with their weights."""
    pairs = zip(values, weights, strict=True)
    return sum(value * weight for value, weight in pairs) / sum(weights)
