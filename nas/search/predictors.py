"""Regressions that foretell accuracy and costs from an architecture's features.

They propose what is worth judging and never judge: a figure that decides is measured or counted.
Letters: n known architectures, m others, F features (in 0..1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import ndtri
from scipy.stats import kendalltau, rankdata
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from nas.checks import check

Floats = NDArray[np.float64]

# Fixed seeds: the same knowledge gives the same predictions, in every process of a search.
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: RidgeCV(alphas=np.logspace(-2, 4, 7)),
    "svr": lambda: SVR(C=3.0, epsilon=0.05),
    "boosting": lambda: GradientBoostingRegressor(
        n_estimators=50, learning_rate=0.15, subsample=0.8, max_features=0.2, random_state=0
    ),
}
KINDS = ("gaussian_process", *ESTIMATORS)
SCALES = ("plain", "log", "rank")
FOLDS = 5
MIN_KNOWN = FOLDS  # architectures that a fit needs


@dataclass(frozen=True)
class PredictorError:
    """How far predictions are off for architectures that the predictor was not fitted to.

    `mae` is in the target's unit, `mape` a fraction of the target, `tau` Kendall's tau-b. Those of
    the band count only the architectures in it; nan where they are too few.
    """

    kind: str
    num_known: int
    mae: float
    mape: float
    tau: float
    band_size: int
    band_mae: float
    band_mape: float
    band_tau: float


@dataclass(frozen=True)
class CrossValidation:
    error: PredictorError
    predicted: Floats  # (n,), each without having seen its target
    measured: Floats  # (n,)


class Regressor(Protocol):
    def fit(self, features: Floats, scores: Floats) -> Any: ...

    def predict(self, features: Floats) -> Any: ...


@dataclass(frozen=True)
class Sizes:
    """Of a Gaussian process: its reach, and variances as shares of its own."""

    length: float
    trend: float
    noise: float


class GaussianProcess:
    """A linear trend, a Matern-5/2 process and noise, of the likeliest sizes of a grid.

    Rasmussen & Williams, 2006, https://gaussianprocess.org/gpml, algorithm 2.1.
    """

    LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median distance between the known
    TRENDS = (0.0, 0.3)
    NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)

    def __init__(self, sizes: Sizes | None = None) -> None:
        self.given = sizes

    def fit(self, features: Floats, scores: Floats) -> None:
        self.known = features
        self.norm = float((features**2).sum(1).mean()) or 1.0
        best = -np.inf
        for sizes, kernel in self.grid():
            noisy = kernel + sizes.noise * np.eye(len(scores))
            factor = cholesky(noisy, lower=True, check_finite=False)
            weights = cho_solve((factor, True), scores, check_finite=False)
            variance = max(float(scores @ weights) / len(scores), 1e-12)  # the likeliest
            fitness = -len(scores) / 2 * np.log(variance) - np.log(factor.diagonal()).sum()
            if fitness > best:
                best, self.sizes, self.variance = fitness, sizes, variance
                self.factor, self.weights = factor, weights

    def grid(self) -> Iterator[tuple[Sizes, Floats]]:
        """Sizes to compare, with the kernel (n, n) between the known."""
        if self.given:
            yield self.given, self.kernel(self.known, self.given)
            return
        unit = float(np.median(distances(self.known, self.known))) or 1.0
        for length, trend in product(self.LENGTHS, self.TRENDS):
            kernel = self.kernel(self.known, Sizes(unit * length, trend, 0))
            for noise in self.NOISES:
                yield Sizes(unit * length, trend, noise), kernel

    def kernel(self, features: Floats, sizes: Sizes) -> Floats:
        """(m, n), between `features` and the known."""
        distance = distances(features, self.known)
        distance *= np.sqrt(5) / sizes.length
        smooth = np.exp(-distance)
        smooth *= 1 + distance * (1 + distance / 3)
        if sizes.trend == 0:
            return smooth
        return (1 - sizes.trend) * smooth + sizes.trend / self.norm * (features @ self.known.T)

    def predict(self, features: Floats) -> Floats:
        return self.kernel(features, self.sizes) @ self.weights

    def forecast(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation (m,) of what is predicted, without an observation's noise."""
        kernel, trend = self.kernel(features, self.sizes), self.sizes.trend
        explained = solve_triangular(self.factor, kernel.T, lower=True, check_finite=False)
        prior = 1 - trend + trend / self.norm * (features**2).sum(1)
        left = np.maximum(prior - np.einsum("nm,nm->m", explained, explained), 0)
        return kernel @ self.weights, np.sqrt(self.variance * left)


def distances(one: Floats, other: Floats) -> Floats:
    """Euclidean, of each row to each."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * (one @ other.T)
    return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


@dataclass(frozen=True)
class Scale:
    """Maps a target's values to scores of about zero mean and unit variance, and back.

    `plain` shifts and stretches, `log` does so with logarithms, and `rank` gives normal scores: the
    worst subnets may be arbitrarily bad, which says little about the best.
    """

    kind: str
    mean: float
    std: float
    values: Floats  # ascending; what is beyond the known has the score of the best or the worst
    scores: Floats

    @classmethod
    def of(cls, kind: str, targets: Floats) -> "Scale":
        check("scale", kind in SCALES, f"one of {SCALES}", kind)
        if kind == "log" and targets.min() <= 0:
            raise ValueError(f"targets must be positive on a log scale, got {targets.min()}")
        values, first = np.unique(targets, return_index=True)
        scores = ndtri((rankdata(targets) - 0.5) / len(targets))[first]
        plain = np.log(targets) if kind == "log" else targets
        return cls(kind, float(plain.mean()), float(plain.std()) or 1.0, values, scores)

    def to_scores(self, values: Floats) -> Floats:
        if self.kind == "rank":
            return np.interp(values, self.values, self.scores)
        return ((np.log(values) if self.kind == "log" else values) - self.mean) / self.std

    def to_values(self, scores: Floats) -> Floats:
        if self.kind == "rank":
            return np.interp(scores, self.scores, self.values)
        plain = scores * self.std + self.mean
        return np.exp(plain) if self.kind == "log" else plain


@dataclass(frozen=True)
class Predictor:
    """A regression of one target, fitted to the scores of its `scale`."""

    kind: str
    scale: Scale
    regressor: Regressor
    features: Floats  # (n, F), of the known
    known: Floats  # (n,), their scores

    def predict(self, features: ArrayLike) -> Floats:
        """The target (m,) in its own unit, of features (m, F)."""
        return self.scale.to_values(self.scores(features))

    def scores(self, features: ArrayLike) -> Floats:
        return np.asarray(self.regressor.predict(np.asarray(features, float)))

    def forecast(self, features: ArrayLike) -> tuple[Floats, Floats]:
        """Scores and their standard deviations (m,): higher, the less alike what is known.

        A regression that cannot say how unsure it is has the deviations of a Gaussian process.
        """
        scores, spread = self.process.forecast(np.asarray(features, float))
        return (scores if self.process is self.regressor else self.scores(features)), spread

    @cached_property
    def process(self) -> GaussianProcess:
        if isinstance(self.regressor, GaussianProcess):
            return self.regressor
        process = GaussianProcess()
        process.fit(self.features, self.known)
        return process


def fit(
    features: ArrayLike, targets: ArrayLike, *, kind: str = "auto", scale: str = "plain"
) -> Predictor:
    """Fits a regression of `targets` (n,) on features (n, F); auto picks by cross-validation.

    Raises ValueError for fewer than `MIN_KNOWN`, for what is not finite, and for unknown names.
    """
    known, values = checked(features, targets)
    if kind == "auto":
        kind = pick(known, values, scale)
    regressor, fitted = make(kind), Scale.of(scale, values)
    scores = fitted.to_scores(values)
    regressor.fit(known, scores)
    return Predictor(kind, fitted, regressor, known, scores)


def make(kind: str, sizes: Sizes | None = None) -> Regressor:
    check("kind", kind in KINDS, f"auto or one of {KINDS}", kind)
    if kind == "gaussian_process":
        return GaussianProcess(sizes)
    pipeline: Regressor = make_pipeline(StandardScaler(), ESTIMATORS[kind]())
    return pipeline


def pick(features: ArrayLike, targets: ArrayLike, scale: str) -> str:
    """The kind whose out-of-fold scores are off the least."""
    known, values = checked(features, targets)
    to_scores = Scale.of(scale, values).to_scores
    off = {
        kind: np.abs(to_scores(unseen(known, values, kind, scale)) - to_scores(values)).mean()
        for kind in KINDS
    }
    return min(KINDS, key=lambda kind: off[kind])


def unseen(features: Floats, targets: Floats, kind: str, scale: str) -> Floats:
    """Predictions (n,), each by a regression that was fitted without its fold.

    A Gaussian process has the sizes of one that was fitted to all.
    """
    sizes = None
    if kind == "gaussian_process":
        whole = GaussianProcess()
        whole.fit(features, Scale.of(scale, targets).to_scores(targets))
        sizes = whole.sizes
    predicted = np.empty(len(targets))
    for seen, held in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        fitted, regressor = Scale.of(scale, targets[seen]), make(kind, sizes)
        regressor.fit(features[seen], fitted.to_scores(targets[seen]))
        predicted[held] = fitted.to_values(regressor.predict(features[held]))
    return predicted


def cross_validate(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    kind: str = "auto",
    scale: str = "plain",
    band: ArrayLike | None = None,
) -> CrossValidation:
    """Out-of-fold predictions and their error, over all and over those that `band` (n,) marks."""
    known, values = checked(features, targets)
    if kind == "auto":
        kind = pick(known, values, scale)
    predicted = unseen(known, values, kind, scale)
    near = np.ones(len(values), bool) if band is None else np.asarray(band, bool)
    mae, mape, tau = errors(values, predicted)
    in_band = errors(values[near], predicted[near])
    error = PredictorError(kind, len(values), mae, mape, tau, int(near.sum()), *in_band)
    return CrossValidation(error, predicted, values)


def errors(truth: Floats, predicted: Floats) -> tuple[float, float, float]:
    """MAE, MAPE and Kendall's tau-b; nan where undefined."""
    if not len(truth):
        return (np.nan,) * 3
    off = np.abs(predicted - truth)
    mape = float((off / np.abs(truth)).mean()) if truth.all() else np.nan
    varied = min(np.ptp(truth), np.ptp(predicted)) > 0
    tau = float(kendalltau(truth, predicted).statistic) if varied else np.nan
    return float(off.mean()), mape, tau


def checked(features: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    known, values = np.asarray(features, float), np.asarray(targets, float)
    if known.ndim != 2 or values.shape != (len(known),):
        raise ValueError(
            f"features and targets must be (n, F) and (n,), got {known.shape} and {values.shape}"
        )
    check("known architectures", len(known) >= MIN_KNOWN, f"at least {MIN_KNOWN}", len(known))
    if not (np.isfinite(known).all() and np.isfinite(values).all()):
        raise ValueError("features and targets must be finite, got nan or infinity")
    return known, values
