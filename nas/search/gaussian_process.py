"""A Gaussian process with a linear trend, whose sizes are the likeliest of a grid.

Letters: n known architectures, m others, F features (in 0..1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

Floats = NDArray[np.float64]


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

    def fit(self, features: Floats, scores: Floats) -> Self:
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
        return self

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

    def posterior(self, features: Floats) -> tuple[Floats, Floats]:
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
