"""Regressions that predict scores and costs from an architecture's features.

They propose what is worth judging and never judge: a figure that decides is measured or counted.
Letters: n known architectures, m others, F features (in 0..1).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import kendalltau, rankdata
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nas.results import Prediction
from nas.search.gaussian_process import Floats, GaussianProcess, Sizes


class Regressor(Protocol):
    def fit(self, features: Floats, scores: Floats) -> object: ...

    def predict(self, features: Floats) -> Floats: ...


# On NAS-Bench-201 support vectors were picked for 6 of 237 targets, and boosting, picked for most
# scores, found no better cells than these two.
KINDS = ("gaussian_process", "ridge")
FOLDS = 5
MIN_KNOWN = FOLDS  # architectures that a fit needs


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

    scale: Scale
    regressor: Regressor
    features: Floats  # (n, F), of the known
    known: Floats  # (n,), their scores

    def scores(self, features: Floats) -> Floats:
        return self.regressor.predict(features)

    def posterior(self, features: Floats) -> tuple[Floats, Floats]:
        """Scores and their standard deviations (m,): higher, the less alike what is known.

        A regression that cannot say how unsure it is has the deviations of a Gaussian process.
        """
        if isinstance(self.regressor, GaussianProcess):
            return self.regressor.posterior(features)
        return self.scores(features), self.process.posterior(features)[1]

    @cached_property
    def process(self) -> GaussianProcess:
        return GaussianProcess().fit(self.features, self.known)


def fit(features: Floats, targets: Floats, kind: str, scale: str) -> Predictor:
    """Fits a regression of `targets` (n,) on features (n, F)."""
    fitted = Scale.of(scale, targets)
    scores = fitted.to_scores(targets)
    regressor = make(kind)
    regressor.fit(features, scores)
    return Predictor(fitted, regressor, features, scores)


def make(kind: str, sizes: Sizes | None = None) -> Regressor:
    if kind == "gaussian_process":
        return GaussianProcess(sizes)
    ridge = RidgeCV(alphas=np.logspace(-2, 4, 7))
    pipeline: Regressor = make_pipeline(StandardScaler(), ridge)
    return pipeline


def pick(features: Floats, targets: Floats, scale: str) -> str:
    """The kind whose out-of-fold scores are off the least."""
    to_scores = Scale.of(scale, targets).to_scores
    off = {
        kind: np.abs(to_scores(unseen(features, targets, kind, scale)) - to_scores(targets)).mean()
        for kind in KINDS
    }
    return min(KINDS, key=lambda kind: off[kind])


def unseen(features: Floats, targets: Floats, kind: str, scale: str) -> Floats:
    """Predictions (n,), each by a regression that was fitted without its fold.

    A Gaussian process has the sizes of one that was fitted to all.
    """
    sizes = None
    if kind == "gaussian_process":
        scores = Scale.of(scale, targets).to_scores(targets)
        sizes = GaussianProcess().fit(features, scores).sizes
    predicted = np.empty(len(targets))
    for seen, held in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        fitted, regressor = Scale.of(scale, targets[seen]), make(kind, sizes)
        regressor.fit(features[seen], fitted.to_scores(targets[seen]))
        predicted[held] = fitted.to_values(regressor.predict(features[held]))
    return predicted


def cross_validate(
    features: Floats, targets: Floats, kind: str, scale: str, *, band: NDArray[np.bool_]
) -> Prediction:
    """Out-of-fold predictions and their errors, over all and over those that `band` (n,) marks."""
    predicted = unseen(features, targets, kind, scale)
    mae, mape, tau = errors(targets, predicted)
    in_band = errors(targets[band], predicted[band]) if band.any() else (None, None, None)
    return Prediction(
        kind=kind,
        predicted=tuple(predicted.tolist()),
        measured=tuple(targets.tolist()),
        mae=mae,
        mape=mape,
        tau=tau,
        band_size=int(band.sum()),
        band_mae=in_band[0],
        band_mape=in_band[1],
        band_tau=in_band[2],
    )


def errors(truth: Floats, predicted: Floats) -> tuple[float, float | None, float | None]:
    """MAE, MAPE and Kendall's tau-b; None where undefined."""
    off = np.abs(predicted - truth)
    mape = float((off / np.abs(truth)).mean()) if truth.all() else None
    varied = min(np.ptp(truth), np.ptp(predicted)) > 0
    tau = float(kendalltau(truth, predicted).statistic) if varied else None
    return float(off.mean()), mape, tau
