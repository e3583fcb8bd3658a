"""Paths picked among uniform candidates by the gradient norm expected of each.

Unlike those that are drawn choice by choice, as in `path_importance`, they have weights that the
largest and the least importance bound, however many choices a space has.
"""

import math
from collections.abc import Sequence
from random import Random

import torch

from search_spaces.space import ArchT, Space
from supernet.sampling.annealing import judge
from supernet.sampling.path_importance import STRENGTHS, Draw, PathImportance
from supernet.sampling.paths import Path, PathGradient

FITTED = 2048  # draws on which the regression is fitted
ENOUGH = 64  # new draws before it is judged and fitted again
RIDGE = 1.0  # penalty of the regression, in draws
LEAST_NORM = 1e-3  # of the median one: a norm of zero would outweigh all others as a logarithm


class CandidatePaths(PathImportance[ArchT]):
    """One subnet a step, picked among uniform candidates by the gradient norm expected of each.

    Weighted by the candidates' mean expected norm over its own, which is bounded and leaves the
    estimate unbiased whatever is expected (sampling importance resampling: Rubin, 1988). The
    logarithm of the norm is a ridge regression on the options in use, fitted on the latest draws.
    """

    state_names = (*PathImportance.state_names, "coefficients", "scale", "fresh")

    def __init__(
        self,
        num_candidates: int = 8,
        floor: float = 0.2,
        annealing: float = 0.1,
        weighted: bool = True,
        *,
        space: Space[ArchT],
    ) -> None:
        if not isinstance(num_candidates, int) or num_candidates < 2:
            raise ValueError(f"num_candidates must be an integer above 1, got {num_candidates!r}")
        super().__init__(floor, annealing, weighted, FITTED, space)
        self.num_candidates = num_candidates
        self.coefficients = [0.0] * len(self.columns)
        self.scale = 1.0  # the mean of expected norms to the power of the strength
        self.fresh = 0  # draws since the last fit

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.share = self.annealing.share(epoch, epochs)
        if self.fresh < ENOUGH:
            return
        fresh = list(self.draws)[-self.fresh :]
        moments = {strength: self.second_moment(fresh, strength) for strength in STRENGTHS}
        self.strength, self.gain = judge(moments, self.weighted)
        self.fit()
        self.fresh = 0
        norms = [self.expected(draw.columns) ** self.strength for draw in self.draws]
        self.scale = mean_of(norms, [draw.ratio for draw in self.draws])

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        archs = [self.space.sample(generator) for _ in range(self.num_candidates)]
        importances = [self.importance(self.columns_of(arch)) for arch in archs]
        (place,) = generator.choices(range(len(archs)), importances)
        mean = sum(importances) / len(importances)
        return [self.path(archs[place], mean / importances[place])]

    def observe(self, path: Path[ArchT], gradient: PathGradient) -> None:
        self.draws.append(Draw(self.columns_of(path.arch), path.ratio, gradient.path**2))
        self.fresh = min(self.fresh + 1, FITTED)

    def importance(self, columns: Sequence[int]) -> float:
        """A share by the expected norm, the rest uniform; the mean over uniform paths is near 1."""
        norm = self.expected(columns) ** self.strength / self.scale
        return 1 + self.share * (norm - 1)

    def expected(self, columns: Sequence[int]) -> float:
        """The norm expected of a path's gradient, relative to the mean's."""
        return math.exp(sum(self.coefficients[column] for column in columns))

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
            row[list(draw.columns)] = 1
        norms = torch.tensor([draw.squared_norm for draw in self.draws], dtype=torch.float64).sqrt()
        logs = norms.clamp(min=max(LEAST_NORM * float(norms.median()), 1e-30)).log()
        gram = design.T @ design + RIDGE * torch.eye(design.shape[1], dtype=torch.float64)
        self.coefficients = torch.linalg.solve(gram, design.T @ (logs - logs.mean())).tolist()


def mean_of(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean: over uniform paths, from draws with their weights."""
    pairs = zip(values, weights, strict=True)
    return sum(value * weight for value, weight in pairs) / sum(weights)
