"""How well predicted scores rank architectures: figures and their bootstrap intervals.

Letters: n architectures, P predictions of the same architectures, R resamples, F figures.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isnan, nan
from statistics import stdev

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from nas.results import Estimate

Floats = NDArray[np.float64]

FIGURES = (
    "tau",
    "sparse_tau",
    "spearman",
    "top_decile_tau",
    "precision_5",
    "precision_10",
    "best_true_rank",
)
SPARSE_STEP = 0.001  # of sparse tau: 0.1 percentage points of a fraction
NUM_PREDICTED_BEST = 10  # of the best true rank


def figures(truth: Floats, predicted: Floats) -> dict[str, float]:
    """Every figure of `FIGURES` by name; higher scores are better.

    `truth` (n,) are scores in their own unit, `predicted` (n,) of any scale. What needs two
    different values on either side is nan without them: the taus and Spearman's correlation.
    Both are finite and not empty.
    """
    best = in_top(truth, ceil_share(len(truth), 10))
    return {
        "tau": tau(truth, predicted),
        "sparse_tau": tau(np.rint(truth / SPARSE_STEP), predicted),
        "spearman": correlation(rankdata(truth), rankdata(predicted)),
        "top_decile_tau": tau(truth[best], predicted[best]),
        "precision_5": precision(truth, predicted, 5),
        "precision_10": precision(truth, predicted, 10),
        "best_true_rank": best_true_rank(truth, predicted),
    }


def estimate(
    truth: Sequence[float], predictions: Sequence[Sequence[float]], *, resamples: int, seed: int
) -> tuple[list[dict[str, Estimate]], dict[str, Estimate]]:
    """The figures of each prediction, and their means over the predictions with their spread.

    Intervals are percentiles over `resamples` draws of n architectures with replacement (Efron,
    1979), the same draws for every prediction and for every call with this seed. Draws in which a
    figure is not defined are left out.
    """
    pairs = [(np.array(truth, float), np.array(predicted, float)) for predicted in predictions]
    count = len(truth)
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, len(pairs), len(FIGURES)))  # (R, P, F)
    for draw in draws:
        chosen = generator.integers(0, count, count)
        draw[:] = [row(true[chosen], predicted[chosen]) for true, predicted in pairs]
    values = np.array([row(true, predicted) for true, predicted in pairs])  # (P, F)
    each = [with_intervals(values[p], draws[:, p]) for p in range(len(pairs))]
    means = with_intervals(values.mean(0), draws.mean(1))
    return each, {
        name: replace(means[name], sd=spread(column))
        for name, column in zip(FIGURES, values.T.tolist(), strict=True)
    }


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, None of a single value or of an undefined one."""
    return stdev(values) if len(values) > 1 and not any(map(isnan, values)) else None


def row(truth: Floats, predicted: Floats) -> list[float]:
    found = figures(truth, predicted)
    return [found[name] for name in FIGURES]


def with_intervals(values: Floats, draws: Floats) -> dict[str, Estimate]:
    """Values (F,) with the middle 95 % of draws (R, F)."""
    estimates = {}
    for name, value, column in zip(FIGURES, values, draws.T, strict=True):
        defined = column[~np.isnan(column)]
        low, high = np.percentile(defined, (2.5, 97.5)).tolist() if len(defined) else (None, None)
        estimates[name] = Estimate(None if isnan(value) else float(value), low, high)
    return estimates


def tau(a: Floats, b: Floats) -> float:
    """Kendall's tau-b, which accounts for ties; nan if either side is constant."""
    if is_constant(a) or is_constant(b):
        return nan
    # The p-value is not used; the exact one is slow, and only it exists for two.
    method = "exact" if len(a) == 2 else "asymptotic"
    return float(kendalltau(a, b, method=method).statistic)


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's; of ranks, Spearman's. nan if either side is constant."""
    if is_constant(a) or is_constant(b):
        return nan
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def is_constant(scores: Floats) -> bool:
    return bool((scores == scores[0]).all())


def ceil_share(count: int, percent: int) -> int:
    """`percent` of `count`, rounded up: of one architecture or more, at least one."""
    return -(-count * percent // 100)


def in_top(scores: Floats, k: int) -> NDArray[np.bool_]:
    """Which are among the k highest (n,); those that equal the k-th are, too."""
    return scores >= np.partition(scores, -k)[-k]


def precision(truth: Floats, predicted: Floats, percent: int) -> float:
    """The share of the predicted top `percent` that is in the true top `percent`.

    Of equal predictions it is the mean over all their orders, so a constant prediction scores
    what chance does.
    """
    k = ceil_share(len(truth), percent)
    threshold = np.partition(predicted, -k)[-k]
    above, equal = predicted > threshold, predicted == threshold
    hits = in_top(truth, k)
    share = (k - above.sum()) / equal.sum()  # of the equal ones that are taken
    return float((hits[above].sum() + share * hits[equal].sum()) / k)


def best_true_rank(truth: Floats, predicted: Floats) -> float:
    """The best true rank among the predicted top 10; 1 is the best architecture's.

    Equal true scores share the best of their ranks. Of equal predictions it is the mean over all
    their orders.
    """
    k = min(NUM_PREDICTED_BEST, len(truth))
    threshold = np.partition(predicted, -k)[-k]
    ranks = rankdata(-truth, method="min")
    above = ranks[predicted > threshold]
    equal = np.sort(ranks[predicted == threshold])
    num_equal, num_taken = len(equal), k - len(above)
    # The chance that the j-th best of the equal ones is the best of those taken: all `num_taken`
    # are among it and the later ones, but not all among the later ones.
    left = num_equal - np.arange(num_equal)  # j-th and later
    later = np.cumprod(np.append(1.0, np.clip(1 - num_taken / left, 0, None)))
    chances = later[:-1] - later[1:]
    best = np.minimum(equal, above.min()) if len(above) else equal
    return float(chances @ best)
