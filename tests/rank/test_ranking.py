"""Figures of a ranking against their definitions, worked by hand or by enumeration."""

from itertools import combinations, pairwise, permutations
from math import asin, isnan, pi, sqrt
from random import Random
from statistics import mean

import numpy as np
import pytest
from scipy.stats import spearmanr

from nas.rank.correlations import FIGURES, estimate
from nas.rank.correlations import figures as figures_of_arrays
from nas.results import Estimate

Scores = list[float]
SEEDS = range(5)


def figures(truth: Scores, predicted: Scores) -> dict[str, float]:
    return figures_of_arrays(np.array(truth), np.array(predicted))


def random_scores(seed: int, count: int = 23) -> tuple[Scores, Scores]:
    """True accuracies and predictions, both with ties."""
    draw = Random(seed).randrange
    truth = [draw(300, 315) / 1000 for _ in range(count)]
    return truth, [float(draw(0, 12)) for _ in range(count)]


def tau_b(a: Scores, b: Scores) -> float:
    """Pairs in agreement less pairs in disagreement, by the pairs that are no ties."""
    pairs = list(combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    return float(sum(x * y for x, y in signs) / sqrt(untied[0] * untied[1]))


def orders(predicted: Scores) -> list[list[int]]:
    """Every order from the best that the predictions allow."""
    places = range(len(predicted))
    return [
        list(order)
        for order in permutations(places)
        if all(predicted[i] >= predicted[j] for i, j in pairwise(order))
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_tau_counts_pairs_in_agreement(seed: int) -> None:
    truth, predicted = random_scores(seed)
    assert figures(truth, predicted)["tau"] == pytest.approx(tau_b(truth, predicted))


@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_is_scipys(seed: int) -> None:
    truth, predicted = random_scores(seed)
    expected = spearmanr(truth, predicted).statistic
    assert figures(truth, predicted)["spearman"] == pytest.approx(expected)


def test_sparse_tau_takes_truths_within_a_tenth_of_a_point_as_equal() -> None:
    truth = [0.9012, 0.9014, 0.9031, 0.9128]
    predicted = [2.0, 1.0, 3.0, 4.0]  # wrong only about the first two, which round to 90.1 %
    found = figures(truth, predicted)
    assert found["tau"] == pytest.approx((5 - 1) / 6)
    assert found["sparse_tau"] == pytest.approx(5 / sqrt(5 * 6))
    assert found["sparse_tau"] == pytest.approx(tau_b([0.901, 0.901, 0.903, 0.913], predicted))


def test_top_decile_tau_sees_only_the_truly_best_tenth() -> None:
    truth, predicted = [place / 100 for place in range(40)], [float(place) for place in range(40)]
    predicted[36:] = [1.0, 3.0, 2.0, 4.0]  # 5 pairs of 6 in order
    assert figures(truth, predicted)["top_decile_tau"] == pytest.approx(4 / 6)
    predicted[:36] = [-predicted[place] for place in range(36)]
    assert figures(truth, predicted)["top_decile_tau"] == pytest.approx(4 / 6)


def test_precision_is_the_share_of_the_predicted_best_that_are_truly_among_the_best() -> None:
    truth = [place / 1000 for place in range(60)]  # the best 3 and 6 are the last ones
    predicted = [float(place) for place in range(60)]
    predicted[59], predicted[0] = predicted[0], predicted[59]  # predicts the worst to be the best
    found = figures(truth, predicted)
    assert found["precision_5"] == pytest.approx(2 / 3)
    assert found["precision_10"] == pytest.approx(5 / 6)


def test_a_share_of_the_architectures_is_rounded_up() -> None:
    truth = [place / 100 for place in range(21)]  # the top tenth is three
    predicted = [float(place) for place in range(21)]
    predicted[18], predicted[0] = predicted[0], predicted[18]
    assert figures(truth, predicted)["precision_10"] == pytest.approx(2 / 3)


def test_precision_counts_all_that_equal_the_last_of_the_truly_best() -> None:
    truth = [0.5] * 10 + [0.9] * 10  # the top tenth is two, but ten are as good
    predicted = [float(place) for place in range(20)]
    assert figures(truth, predicted)["precision_10"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_predictions_count_as_the_mean_over_their_orders(seed: int) -> None:
    generator = Random(seed)
    truth = [generator.randrange(5) / 10 for _ in range(7)]
    predicted = [float(generator.randrange(3)) for _ in range(7)]
    best = [place for place in range(7) if truth[place] == max(truth)]
    expected = mean(order[0] in best for order in orders(predicted))  # 10 % of 7 is one
    assert figures(truth, predicted)["precision_10"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_best_true_rank_is_the_best_rank_among_ten_predicted(seed: int) -> None:
    generator = Random(seed)
    truth = [generator.randrange(1000) / 1000 for _ in range(16)]
    # 7 are above the tie, and 3 of the 6 tied ones are taken: each choice is as likely.
    above, equal, below = range(7), range(7, 13), range(13, 16)
    predicted = [2.0] * len(above) + [1.0] * len(equal) + [0.0] * len(below)

    def rank_of(place: int) -> int:
        return 1 + sum(other > truth[place] for other in truth)

    chosen = [[*above, *taken] for taken in combinations(equal, 3)]
    expected = mean(min(map(rank_of, places)) for places in chosen)
    assert figures(truth, predicted)["best_true_rank"] == pytest.approx(expected)
    only = figures([*(truth[place] for place in equal), 2, 2], [1.0] * 6 + [0.0] * 2)
    assert only["best_true_rank"] == 1  # fewer than ten: all are predicted


def test_best_true_rank_of_constant_predictions_is_that_of_ten_drawn_at_random() -> None:
    found = figures([place / 1000 for place in range(109)], [0.0] * 109)
    assert found["best_true_rank"] == pytest.approx((109 + 1) / (10 + 1))  # of the least of ten


def test_a_perfect_prediction_has_perfect_figures_and_its_opposite_the_worst() -> None:
    truth = [place / 100 for place in range(100)]
    perfect = dict.fromkeys(FIGURES, 1.0)
    assert figures(truth, truth) == pytest.approx(perfect)
    worst = dict.fromkeys(FIGURES, -1.0)
    worst |= {"precision_5": 0.0, "precision_10": 0.0, "best_true_rank": 91.0}
    assert figures(truth, [-score for score in truth]) == pytest.approx(worst)


@pytest.mark.parametrize("constant", ["truth", "predictions", "both"])
def test_correlations_of_constants_are_not_defined_and_the_rest_is_what_chance_does(
    constant: str,
) -> None:
    varied = [place / 100 for place in range(40)]
    truth = [0.5] * 40 if constant != "predictions" else varied
    predicted = [3.0] * 40 if constant != "truth" else varied
    found = figures(truth, predicted)
    correlations = ("tau", "sparse_tau", "spearman", "top_decile_tau")
    assert all(isnan(found[name]) for name in correlations)
    chance = {"precision_5": 2 / 40, "precision_10": 4 / 40}  # where the truth varies
    expected = chance if constant == "predictions" else {"precision_5": 1, "precision_10": 1}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_single_architecture_has_figures() -> None:
    found = figures([0.4], [7.0])
    assert isnan(found["tau"])
    assert (found["precision_5"], found["best_true_rank"]) == (1, 1)


# Intervals


def test_an_interval_holds_the_middle_of_resampled_figures() -> None:
    truth, predicted = random_scores(0)
    generator = np.random.default_rng(3)
    taus = []
    for _ in range(200):
        chosen = generator.integers(0, len(truth), len(truth))
        taus.append(tau_b([truth[i] for i in chosen], [predicted[i] for i in chosen]))
    (found,), _ = estimate(truth, [predicted], resamples=200, seed=3)
    low, high = np.percentile(taus, (2.5, 97.5))
    expected = (tau_b(truth, predicted), low, high)
    assert (found["tau"].value, found["tau"].low, found["tau"].high) == pytest.approx(expected)


def test_intervals_cover_the_true_tau_about_as_often_as_they_say() -> None:
    correlation, covered = 0.6, 0
    generator = np.random.default_rng(0)
    for seed in range(30):
        truth = generator.normal(size=60)
        noise = generator.normal(size=60)
        predicted = correlation * truth + sqrt(1 - correlation**2) * noise
        _, found = estimate(truth.tolist(), [predicted.tolist()], resamples=60, seed=seed)
        # tau of a normal distribution: Greiner's relation
        low, high = found["tau"].low or 0, found["tau"].high or 0
        covered += low <= 2 / pi * asin(correlation) <= high
    assert covered >= 25


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    truth, predicted = random_scores(1)

    def interval(seed: int) -> Estimate:
        return estimate(truth, [predicted], resamples=50, seed=seed)[1]["tau"]

    assert interval(1) == interval(1) != interval(2)


def test_the_mean_over_predictions_is_resampled_as_a_whole() -> None:
    truth = [place / 100 for place in range(30)]
    better = [score + (place % 3) / 20 for place, score in enumerate(truth)]
    each, both = estimate(truth, [better, [-score for score in better]], resamples=50, seed=0)
    assert (each[0]["tau"].low or 0) > 0 > (each[1]["tau"].high or 0)
    # The same draws for both, so that their taus cancel in each draw.
    found = both["tau"]
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))
    tau = each[0]["tau"].value or 0
    assert found.sd == pytest.approx(2**0.5 * tau)  # of tau and -tau


def test_draws_without_a_defined_figure_are_left_out() -> None:
    (found,), _ = estimate([0.1, 0.2], [[1.0, 2.0]], resamples=50, seed=0)
    assert found["tau"] == Estimate(1, 1, 1)  # half the draws hold one architecture twice
    (found,), mean = estimate([0.1, 0.1], [[1.0, 2.0]], resamples=50, seed=0)
    assert found["tau"] == mean["tau"] == Estimate(None, None, None)
