"""Predictors against what they are meant to recover, and their errors against definitions."""

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from nas.search.predictors import (
    KINDS,
    MIN_KNOWN,
    SCALES,
    Floats,
    GaussianProcess,
    Scale,
    Sizes,
    cross_validate,
    errors,
    fit,
    pick,
    unseen,
)


def some_features(count: int = 40, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((count, 5))


def curved(features: Floats) -> Floats:
    """Positive, and not linear."""
    return 2 + features[:, 0] + np.sin(4 * features[:, 1]) + features[:, 2] * features[:, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_what_features_decide(kind: str) -> None:
    known, others = some_features(80), some_features(200, seed=1)
    truth = curved(others)
    predicted = fit(known, curved(known), kind=kind).predict(others)
    assert np.abs(predicted - truth).mean() < 0.8 * np.abs(truth.mean() - truth).mean()


@pytest.mark.parametrize("scale", SCALES)
def test_the_same_knowledge_gives_the_same_predictions(scale: str) -> None:
    known = some_features()
    once, again = (fit(known, curved(known), scale=scale).predict(known) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_auto_is_the_kind_whose_predictions_are_off_the_least() -> None:
    known = some_features()
    for target in (curved(known), known @ np.arange(5.0)):
        off = {k: np.abs(unseen(known, target, k, "plain") - target).mean() for k in KINDS}
        best = min(off, key=lambda kind: off[kind])
        assert pick(known, target, "plain") == best == fit(known, target).kind
        assert cross_validate(known, target).error.kind == best


def test_a_prediction_of_cross_validation_has_not_seen_its_target() -> None:
    known = some_features(20)
    target = curved(known)
    for kind in ("ridge", "svr", "boosting"):
        predicted = unseen(known, target, kind, "plain")
        for place in (0, 7, 19):
            changed = target.copy()
            changed[place] += 100
            assert unseen(known, changed, kind, "plain")[place] == predicted[place]


@pytest.mark.parametrize("trend", [0.0, 0.3])
def test_a_gaussian_process_is_that_of_scikit_learn(trend: float) -> None:
    known, others = some_features(15), some_features(10, seed=1)
    scores = curved(known) - 3
    ours = GaussianProcess(Sizes(0.7, trend, 0.1))
    ours.fit(known, scores)
    norm = (known**2).sum(1).mean()
    variance = ours.variance
    kernel = (
        ConstantKernel(variance * (1 - trend)) * Matern(0.7, nu=2.5)
        + ConstantKernel(max(variance * trend / norm, 1e-12)) * DotProduct(0.0, "fixed")
        + WhiteKernel(variance * 0.1)
    )
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(known, scores)
    mean, deviation = theirs.predict(others, return_std=True)
    spread = np.sqrt(deviation**2 - variance * 0.1)  # theirs is that of an observation
    for found, expected in zip(ours.forecast(others), (mean, spread), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(ours.predict(others), mean)


def test_the_sizes_of_a_gaussian_process_are_the_likeliest_of_its_grid() -> None:
    known = some_features(15)
    scores = curved(known) - 3
    process = GaussianProcess()
    process.fit(known, scores)

    def likelihood(sizes: Sizes, kernel: Floats) -> float:
        noisy = kernel + sizes.noise * np.eye(15)
        variance = scores @ np.linalg.solve(noisy, scores) / 15
        return float(-15 / 2 * np.log(variance) - np.linalg.slogdet(noisy)[1] / 2)

    likelihoods = {sizes: likelihood(sizes, kernel) for sizes, kernel in process.grid()}
    assert process.sizes == max(likelihoods, key=lambda sizes: likelihoods[sizes])


@pytest.mark.parametrize("kind", KINDS)
def test_spread_grows_with_the_distance_from_what_is_known(kind: str) -> None:
    known = some_features()
    predictor = fit(known, curved(known), kind=kind)
    scores, near = predictor.forecast(known[:5])
    far = predictor.forecast(known[:5] + 10)[1]
    assert near.max() < far.min()
    np.testing.assert_allclose(scores, predictor.scores(known[:5]))


@pytest.mark.parametrize("scale", SCALES)
def test_scores_are_standard_and_lead_back_to_values(scale: str) -> None:
    targets = np.exp(np.random.default_rng(0).normal(size=50))
    fitted = Scale.of(scale, targets)
    scores = fitted.to_scores(targets)
    assert abs(scores.mean()) < 1e-9
    assert abs(scores.std() - 1) < 0.1
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(targets))
    np.testing.assert_allclose(fitted.to_values(scores), targets)


def test_equal_targets_have_equal_scores() -> None:
    targets = np.array([1.0, 3.0, 3.0, 2.0, 9.0, 3.0])
    scores = Scale.of("rank", targets).to_scores(targets)
    assert scores[1] == scores[2] == scores[5]
    assert scores[0] == -scores[4]


@pytest.mark.parametrize("scale", SCALES)
def test_targets_that_are_all_equal_are_predicted(scale: str) -> None:
    known = some_features(10)
    predictor = fit(known, np.full(10, 7.0), scale=scale)
    np.testing.assert_allclose(predictor.predict(known), 7.0)
    assert np.isfinite(predictor.forecast(known)[1]).all()


def test_errors_are_as_defined() -> None:
    truth, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 4.0])
    mae, mape, tau = errors(truth, predicted)
    assert mae == pytest.approx(0.5)
    assert mape == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert tau == pytest.approx((2 - 1) / 3)  # two pairs agree, one does not


def test_the_band_counts_only_what_is_in_it() -> None:
    known = some_features()
    target = curved(known)
    band = target > np.median(target)
    error = cross_validate(known, target, kind="svr", scale="log", band=band).error
    predicted = unseen(known, target, "svr", "log")
    off = np.abs(predicted - target)
    assert (error.num_known, error.band_size) == (40, 20)
    assert error.mae == pytest.approx(off.mean())
    assert error.band_mae == pytest.approx(off[band].mean())
    assert error.band_mape == pytest.approx((off / target)[band].mean())
    none = cross_validate(known, target, kind="svr", band=np.zeros(40, bool)).error
    assert none.band_size == 0
    assert np.isnan(astuple(none)[-3:]).all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x, y: fit(x, y, kind="oracle"), "kind must be auto or one of .*, got 'oracle'"),
        (lambda x, y: fit(x, y, scale="cubic"), "scale must be one of .*, got 'cubic'"),
        (lambda x, y: fit(x, y - 100, scale="log"), "targets must be positive on a log scale"),
        (lambda x, y: fit(x[:4], y[:4]), f"at least {MIN_KNOWN}, got 4"),
        (lambda x, y: fit(x, y[:-1]), r"must be \(n, F\) and \(n,\)"),
        (lambda x, y: fit(x, y * np.nan), "must be finite"),
    ],
)
def test_bad_input_is_refused(ask: Callable[[Floats, Floats], object], message: str) -> None:
    known = some_features(10)
    with pytest.raises(ValueError, match=message):
        ask(known, curved(known))
