"""Paths drawn by the size of their gradients, so that the gradient's estimate varies less.

A path a has the uniform probability u(a); drawn with p(a) and weighted by u(a) / p(a), its gradient
g_a estimates the uniform mean whatever p is, with the second moment E_u[u/p |g|^2], which is least
for p proportional to u |g|. After PA&DA (Lu et al., 2023, https://arxiv.org/abs/2302.14772), which
draws operations by the norms of their own gradients and applies no weights; here any space has
importances, statistics are never reset, and how strongly they are used is decided by what they
would have saved on the draws of late.
"""

import math
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import torch

from search_spaces.space import Option, Space
from supernet.sampling import Norms, Path, PathGradient, weakest

# How strongly importances may be used: exponents of the predicted norms.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED = 512  # draws on which a strength is judged
FITTED = 2048  # draws on which the regression is fitted
ENOUGH = 64  # new draws before it is judged and fitted again
RIDGE = 1.0  # penalty of the regression, in draws
LEAST_NORM = 1e-3  # of the median one: a norm of zero would outweigh all others as a logarithm


class Draw(NamedTuple):
    """One drawn path: the column of each option in use, its weight, its squared norm."""

    columns: tuple[int, ...]
    weight: float
    squared_norm: float


class PathImportance:
    """What both samplers share: the columns of options, recent draws and the annealing.

    `floor` is the least probability as a fraction of the uniform one; the share of importance rises
    linearly to 1 - floor over the first `annealing` of all epochs. Not `weighted`, paths of large
    gradients are trained more, and importances are used at full strength.
    """

    begins_with_largest = False
    norms: Norms = "path"

    def __init__(
        self, floor: float, annealing: float, weighted: bool, memory: int, space: Space[Any]
    ) -> None:
        for name, value in {"floor": floor, "annealing": annealing}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value!r}")
        self.space = space
        self.floor = floor
        self.annealing = annealing
        self.weighted = weighted
        self.choices = space.choices()
        self.columns: dict[tuple[str, Option], int] = {}
        self.uniform: list[float] = []  # probability of each column
        for name, options in self.choices.items():
            for option in options:
                self.columns[name, option] = len(self.columns)
                self.uniform.append(1 / len(options))
        self.draws: deque[Draw] = deque(maxlen=memory)
        self.share = 0.0
        self.strength = 0.0
        self.gain = 1.0

    def columns_of(self, arch: Any) -> tuple[int, ...]:
        """The columns of the options that an architecture uses, in the order of choices."""
        return tuple(self.columns[item] for item in self.space.active(arch).items())

    def anneal(self, epoch: int, epochs: int) -> None:
        self.share = (1 - self.floor) * min(1.0, epoch / (self.annealing * epochs))

    def path(self, arch: Any, ratio: float) -> Path:
        return Path(arch, "random", ratio if self.weighted else 1.0, ratio)

    def remember(self, path: Path, norm: float) -> tuple[int, ...]:
        columns = self.columns_of(path.arch)
        self.draws.append(Draw(columns, path.ratio, norm**2))
        return columns

    def figures(self) -> dict[str, float]:
        """`path_ess`: effective over actual number of the draws of late, by their weights.

        `path_gain`: the second moment of the gradient's estimate over that of uniform paths, as
        expected from the draws of late.
        """
        weights = [draw.weight for draw in self.draws]
        squares = sum(weight**2 for weight in weights)
        ess = sum(weights) ** 2 / (len(weights) * squares) if weights else 1.0
        return {"path_ess": ess, "path_strength": self.strength, "path_gain": self.gain}

    def common_state(self) -> dict[str, Any]:
        return {
            "draws": [[list(draw.columns), *draw[1:]] for draw in self.draws],
            "share": self.share,
            "strength": self.strength,
            "gain": self.gain,
        }

    def load_common_state(self, state: dict[str, Any], needed: set[str]) -> None:
        known = {"draws", "share", "strength", "gain"} | needed
        if state.keys() != known:
            raise ValueError(f"the state must have {sorted(known)}, got {sorted(state)}")
        self.draws.clear()
        self.draws.extend(Draw(tuple(columns), *rest) for columns, *rest in state["draws"])
        self.share, self.strength = state["share"], state["strength"]
        self.gain = state["gain"]


class FactorisedPaths(PathImportance):
    """One subnet a step, each choice drawn on its own by the gradients that its options had.

    The importance of an option is the root of the decayed mean of squared gradient norms, over the
    whole run, of the paths that had it (`attribution` path) or of its own parameters (choice).
    Options that were never drawn, or have no parameters of their own, count as the mean of the
    others of their choice.
    """

    def __init__(
        self,
        floor: float = 0.2,
        annealing: float = 0.1,
        decay: float = 0.98,
        attribution: str = "path",
        weighted: bool = True,
        *,
        space: Space[Any],
    ) -> None:
        if attribution not in ("path", "choice"):
            raise ValueError(f"attribution must be path or choice, got {attribution!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay!r}")
        super().__init__(floor, annealing, weighted, JUDGED, space)
        self.norms: Norms = "path" if attribution == "path" else "choice"
        self.decay = decay
        self.mean_squares = [0.0] * len(self.columns)  # of each column, 0 if never seen
        self.probabilities = list(self.uniform)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.anneal(epoch, epochs)
        moments = {strength: self.second_moment(strength) for strength in STRENGTHS}
        self.strength = weakest(moments) if self.weighted else 1.0
        self.gain = moments[self.strength] / moments[0.0] if moments[0.0] else 1.0
        self.probabilities = self.mix(self.strength)

    def draw(self, generator: Random) -> list[Path]:
        values: dict[str, Option] = {}
        for name, options in self.choices.items():
            first = self.columns[name, options[0]]
            chances = self.probabilities[first : first + len(options)]
            (values[name],) = generator.choices(options, chances)
        arch = self.space.decode(values)
        return [self.path(arch, self.weight(self.columns_of(arch), self.probabilities))]

    def weight(self, columns: Sequence[int], probabilities: Sequence[float]) -> float:
        """u / p of a path; choices that it does not use have no part in it."""
        return math.prod(self.uniform[column] / probabilities[column] for column in columns)

    def observe(self, path: Path, gradient: PathGradient) -> None:
        columns = self.remember(path, gradient.path)
        names = self.space.active(path.arch)
        for name, column in zip(names, columns, strict=True):
            if self.norms == "path":
                squared = gradient.path**2
            elif own := gradient.choices.get(name):
                squared = sum(norm**2 for norm in own)
            else:
                continue
            mean = self.mean_squares[column] or squared
            self.mean_squares[column] = self.decay * mean + (1 - self.decay) * squared

    def second_moment(self, strength: float) -> float:
        """Of the estimate that a strength would give, from the draws of late; 0 without any."""
        probabilities = self.mix(strength)
        return sum(
            draw.weight * draw.squared_norm * self.weight(draw.columns, probabilities)
            for draw in self.draws
        ) / max(1, len(self.draws))

    def mix(self, strength: float) -> list[float]:
        """Each option's probability: a share by importance, the rest uniform."""
        probabilities: list[float] = []
        for name, options in self.choices.items():
            first = self.columns[name, options[0]]
            seen = [square**0.5 for square in self.mean_squares[first : first + len(options)]]
            known = [norm for norm in seen if norm > 0]
            mean = sum(known) / len(known) if known else 1.0
            importances = [(norm or mean) ** strength for norm in seen]
            total, uniform = sum(importances), 1 / len(options)
            probabilities += [
                # In this form equal importances leave the uniform probability as it is, to the bit.
                uniform + self.share * (importance / total - uniform)
                for importance in importances
            ]
        return probabilities

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.common_state(),
            "mean_squares": list(self.mean_squares),
            "probabilities": list(self.probabilities),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_common_state(state, {"mean_squares", "probabilities"})
        self.mean_squares = list(state["mean_squares"])
        self.probabilities = list(state["probabilities"])


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
        self.num_candidates = num_candidates
        self.interactions = interactions
        num_columns = len(self.columns)
        self.coefficients = [0.0] * (num_columns + interactions * num_columns**2)
        self.scale = 1.0  # the mean of expected norms to the power of the strength
        self.fresh = 0  # draws since the last fit

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.anneal(epoch, epochs)
        if self.fresh < ENOUGH:
            return
        fresh = list(self.draws)[-self.fresh :]
        moments = {strength: self.second_moment(fresh, strength) for strength in STRENGTHS}
        self.strength = weakest(moments) if self.weighted else 1.0
        self.gain = moments[self.strength] / moments[0.0] if moments[0.0] else 1.0
        self.fit()
        self.fresh = 0
        norms = [self.expected(draw.columns) ** self.strength for draw in self.draws]
        self.scale = mean_of(norms, [draw.weight for draw in self.draws])

    def draw(self, generator: Random) -> list[Path]:
        archs = [self.space.sample(generator) for _ in range(self.num_candidates)]
        importances = [self.importance(self.columns_of(arch)) for arch in archs]
        (place,) = generator.choices(range(len(archs)), importances)
        mean = sum(importances) / len(importances)
        return [self.path(archs[place], mean / importances[place])]

    def observe(self, path: Path, gradient: PathGradient) -> None:
        self.remember(path, gradient.path)
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
        weights = [draw.weight for draw in draws]
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
