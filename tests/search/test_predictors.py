"""Predictors against what they are meant to recover, and their errors against definitions."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from nas.search.gaussian_process import Floats, GaussianProcess, Sizes
from nas.search.predictors import (
    KINDS,
    Predictor,
    Scale,
    cross_validate,
    errors,
    fit,
    pick,
    unseen,
)

SCALES = ("plain", "log", "rank")


def some_features(count: int = 40, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((count, 5))


def curved(features: Floats) -> Floats:
    """Positive, and not linear."""
    return 2 + features[:, 0] + np.sin(4 * features[:, 1]) + features[:, 2] * features[:, 3]


def predict(predictor: Predictor, features: Floats) -> Floats:
    return predictor.scale.to_values(predictor.scores(features))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_what_features_decide(kind: str) -> None:
    known, others = some_features(80), some_features(200, seed=1)
    truth = curved(others)
    predicted = predict(fit(known, curved(known), kind, "plain"), others)
    assert np.abs(predicted - truth).mean() < 0.8 * np.abs(truth.mean() - truth).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_same_knowledge_gives_the_same_predictions(scale: str, kind: str) -> None:
    known = some_features()
    once, again = (predict(fit(known, curved(known), kind, scale), known) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_what_is_picked_is_the_kind_whose_predictions_are_off_the_least() -> None:
    known = some_features()
    for target in (curved(known), known @ np.arange(5.0)):
        off = {k: np.abs(unseen(known, target, k, "plain") - target).mean() for k in KINDS}
        assert pick(known, target, "plain") == min(off, key=lambda kind: off[kind])


def test_a_prediction_of_cross_validation_has_not_seen_its_target() -> None:
    known = some_features(20)
    target = curved(known)
    predicted = unseen(known, target, "ridge", "plain")
    for place in (0, 7, 19):
        changed = target.copy()
        changed[place] += 100
        assert unseen(known, changed, "ridge", "plain")[place] == predicted[place]


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
    for found, expected in zip(ours.posterior(others), (mean, spread), strict=True):
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
    predictor = fit(known, curved(known), kind, "plain")
    scores, near = predictor.posterior(known[:5])
    far = predictor.posterior(known[:5] + 10)[1]
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
    targets = np.full(10, 7.0)
    predictor = fit(known, targets, pick(known, targets, scale), scale)
    np.testing.assert_allclose(predict(predictor, known), 7.0)
    assert np.isfinite(predictor.posterior(known)[1]).all()


def test_errors_are_as_defined() -> None:
    truth, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 4.0])
    mae, mape, tau = errors(truth, predicted)
    assert mae == pytest.approx(0.5)
    assert mape == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert tau == pytest.approx((2 - 1) / 3)  # two pairs agree, one does not
    mae, *undefined = errors(np.zeros(3), predicted)
    assert mae == pytest.approx(6.5 / 3)
    assert undefined == [None, None]


def test_the_band_counts_only_what_is_in_it() -> None:
    known = some_features()
    target = curved(known)
    band = target > np.median(target)
    found = cross_validate(known, target, "ridge", "log", band=band)
    predicted = unseen(known, target, "ridge", "log")
    off = np.abs(predicted - target)
    assert (len(found.measured), found.band_size) == (40, 20)
    assert found.predicted == tuple(predicted)
    assert found.mae == pytest.approx(off.mean())
    assert found.band_mae == pytest.approx(off[band].mean())
    assert found.band_mape == pytest.approx((off / target)[band].mean())
    none = cross_validate(known, target, "ridge", "plain", band=np.zeros(40, bool))
    assert (none.band_size, none.band_mae, none.band_mape, none.band_tau) == (0, None, None, None)
