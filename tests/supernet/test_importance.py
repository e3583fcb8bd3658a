"""The law of importance sampling: what is drawn how often, that it is unbiased, what it saves.

`law` goes through every outcome of a draw, so expectations here are exact, not sampled.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from search_spaces.cell import OPERATIONS, CellArch, CellSpace
from search_spaces.space import Space
from supernet.families.cell import CellSizes, CellSupernet
from supernet.families.vit import ROLES, ViTSizes, ViTSupernet
from supernet.sampling.example_importance import ImportanceData
from supernet.sampling.path_importance import STRENGTHS, FactorisedPaths
from supernet.sampling.paths import Path, PathGradient, PathSampler, SandwichPaths
from supernet.sampling.published import PublishedData, PublishedPaths, kind_of
from supernet.supernet import Supernet
from tests.contracts.paths import SPACES
from tests.helpers.samplers import (
    EPOCHS,
    FEW_CELLS,
    FEW_DEPTHS,
    law,
    learn_data,
    learn_paths,
    made_up,
    some_scores,
    uniform_law,
)
from tests.helpers.spaces import OWN

Make = Callable[..., PathSampler[Any]]
FEW: dict[str, Space[Any]] = {"cells": FEW_CELLS, "depths": FEW_DEPTHS}
UNBIASED: dict[str, Make] = {
    "factorised": FactorisedPaths,
    "factorised_choice": lambda space: FactorisedPaths(attribution="choice", space=space),
    "sandwich_importance": lambda space: SandwichPaths(1, FactorisedPaths, space=space),
}


def learned(make: Make, space: Space[Any], **settings: Any) -> Any:
    paths = make(space=space)
    learn_paths(paths, space, **settings)
    return paths


def chances(paths: PathSampler[Any]) -> dict[Any, float]:
    return {arch: count for arch, (count, _, _) in law(paths).items()}


def assert_unequal(values: Sequence[float]) -> None:
    assert max(values) > 1.2 * min(values)


# How often


@pytest.mark.parametrize("space", FEW.values(), ids=FEW)
@pytest.mark.parametrize("make", [FactorisedPaths, PublishedPaths])
def test_paths_come_as_often_as_their_probability_says(make: Make, space: Space[Any]) -> None:
    paths, generator, num_draws = learned(make, space), Random(0), 6000
    expected = chances(paths)
    assert_unequal([chance / uniform_law(space)[arch] for arch, chance in expected.items()])
    counts = Counter(paths.draw(generator)[0].arch for _ in range(num_draws))
    assert counts.keys() <= expected.keys()
    common = [arch for arch, chance in expected.items() if chance * num_draws >= 5]
    rest = 1 - sum(expected[arch] for arch in common)
    found = [counts[arch] for arch in common] + [counts.total() - sum(counts[a] for a in common)]
    wanted = [num_draws * chance for chance in (*(expected[arch] for arch in common), rest)]
    if rest < 1e-9:
        found, wanted = found[:-1], wanted[:-1]
    assert chisquare(found, wanted).pvalue > 1e-3


@pytest.mark.parametrize("space", FEW.values(), ids=FEW)
def test_choices_are_drawn_on_their_own_with_the_probabilities_that_were_learned(
    space: Space[Any],
) -> None:
    paths = learned(FactorisedPaths, space)
    drawn = chances(paths)
    for name, options in space.choices().items():
        uses = {arch: space.active(arch)[name] for arch in drawn if name in space.active(arch)}
        whole = sum(drawn[arch] for arch in uses)
        for option in options:
            found = sum(drawn[arch] for arch, used in uses.items() if used == option) / whole
            column = paths.columns[name, option]
            assert found == pytest.approx(paths.probabilities[column], rel=1e-9)


def test_uniform_probabilities_count_shallow_transformers_once_per_assignment() -> None:
    uniform = uniform_law(FEW_DEPTHS)
    assert len(uniform) == FEW_DEPTHS.num_archs() == 20
    for arch, chance in uniform.items():
        assert chance == pytest.approx(1 / 2 / 4**arch.depth)


@pytest.mark.parametrize("draws", ["systematic", "independent"])
def test_examples_come_as_often_as_their_probability_says(draws: str) -> None:
    num_examples, num_epochs = 40, 400
    data = ImportanceData(draws=draws, num_examples=num_examples)
    scores, generator = some_scores(num_examples), Generator().manual_seed(0)
    indices, _ = learn_data(data, scores)
    assert_unequal(data.probabilities.tolist())
    excess, variance, total = torch.zeros(3, num_examples, dtype=torch.float64)
    largest = 0.0
    for _ in range(num_epochs):
        data.observe(indices, scores[indices])
        indices, _ = data.draw_epoch(generator, EPOCHS - 1, EPOCHS)
        mean = num_examples * data.probabilities
        deviation = indices.bincount(minlength=num_examples) - mean
        largest = max(largest, float(deviation.abs().max()))
        excess, total = excess + deviation, total + mean
        rest = mean - mean.floor()  # systematic draws round up with this probability
        variance += rest * (1 - rest) if draws == "systematic" else mean
    assert (largest < 1) is (draws == "systematic")
    assert (excess.abs() <= 4 * variance.sqrt() + 1e-6).all()
    if draws == "independent":
        assert chisquare(total + excess, total).pvalue > 1e-3


def test_an_epoch_of_equal_scores_has_every_example_once() -> None:
    data, generator = ImportanceData(num_examples=97), Generator().manual_seed(0)
    scores = torch.full((97,), 0.3)
    orders = []
    for epoch in range(EPOCHS):
        indices, weights = data.draw_epoch(generator, epoch, EPOCHS)
        assert indices.sort().values.tolist() == list(range(97))
        assert weights.tolist() == [1.0] * 97
        orders.append(tuple(indices.tolist()))
        data.observe(indices, scores)
    assert len(set(orders)) == EPOCHS
    assert (data.share, data.gain) == (0.0, 1.0)


# Unbiased


def cells_supernet() -> CellSupernet:
    sizes = CellSizes(in_chans=2, num_classes=3, channels=FEW_CELLS.channels, num_cells=1)
    return CellSupernet(FEW_CELLS, sizes, {}, generator=Generator().manual_seed(0)).double()


def depths_supernet() -> ViTSupernet:
    fixed = ViTSizes(img_size=4, patch_size=2, in_chans=2, num_classes=3, head_dim=3)
    generator = Generator().manual_seed(0)
    return ViTSupernet(FEW_DEPTHS, fixed, dict.fromkeys(ROLES, OWN), generator=generator).double()


SUPERNETS: dict[str, Callable[[], Supernet[Any]]] = {
    "cells": cells_supernet,
    "depths": depths_supernet,
}


def some_batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(1)
    images = torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64)
    return images, torch.arange(size) % 3


def flat_gradient(loss: Tensor, supernet: Supernet[Any]) -> Tensor:
    found = torch.autograd.grad(
        loss, list(supernet.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.fixture(scope="module", params=SUPERNETS, name="gradients")
def gradients_fixture(request: pytest.FixtureRequest) -> tuple[Space[Any], dict[Any, Tensor]]:
    """A space and the gradient of each of its architectures, of one supernet on one batch."""
    supernet, space = SUPERNETS[request.param](), FEW[request.param]
    images, targets = some_batch()
    found = {
        arch: flat_gradient(F.cross_entropy(supernet(images, arch=arch), targets), supernet)
        for arch in uniform_law(space)
    }
    return space, found


def mean_gradient(weights: dict[Any, float], gradients: dict[Any, Tensor]) -> Tensor:
    return torch.stack([weight * gradients[arch] for arch, weight in weights.items()]).sum(0)


@pytest.mark.parametrize("make", UNBIASED.values(), ids=UNBIASED)
def test_the_weighted_gradient_has_the_mean_over_uniform_paths(
    make: Make, gradients: tuple[Space[Any], dict[Any, Tensor]]
) -> None:
    space, gradient_of = gradients
    paths, uniform = learned(make, space), uniform_law(space)
    moments = law(paths)
    assert_unequal([count / uniform[arch] for arch, (count, _, _) in moments.items()])
    weights = {arch: weighted for arch, (_, weighted, _) in moments.items()}
    expected = mean_gradient(uniform, gradient_of)
    found = mean_gradient(weights, gradient_of)
    assert float((found - expected).norm()) <= 1e-9 * float(expected.norm())
    biased = mean_gradient({a: count for a, (count, _, _) in moments.items()}, gradient_of)
    assert float((biased - expected).norm()) > 1e-3 * float(expected.norm())


def test_gradients_of_a_real_supernet_are_learned_from_to_the_same_mean(
    gradients: tuple[Space[Any], dict[Any, Tensor]],
) -> None:
    space, gradient_of = gradients
    norms = {arch: PathGradient(float(found.norm())) for arch, found in gradient_of.items()}
    paths = learned(FactorisedPaths, space, gradient=lambda _, arch: norms[arch])
    for arch, (_, weighted, _) in law(paths).items():
        assert weighted == pytest.approx(uniform_law(space)[arch], rel=1e-9)


def test_published_paths_are_biased(gradients: tuple[Space[Any], dict[Any, Tensor]]) -> None:
    space, gradient_of = gradients
    weights = {arch: w for arch, (_, w, _) in law(learned(PublishedPaths, space)).items()}
    expected = mean_gradient(uniform_law(space), gradient_of)
    found = mean_gradient(weights, gradient_of)
    assert float((found - expected).norm()) > 1e-3 * float(expected.norm())


def test_choices_that_a_shallow_transformer_does_not_use_play_no_part_in_its_weight() -> None:
    paths = learned(FactorisedPaths, FEW_DEPTHS)
    generator = Random(0)
    drawn = [paths.draw(generator)[0] for _ in range(400)]
    weights: dict[Any, set[float]] = {}
    for path in drawn:
        weights.setdefault(path.arch, set()).add(path.weight)
    assert all(len(found) == 1 for found in weights.values())
    for arch, (weight,) in ((a, tuple(w)) for a, w in weights.items() if a.depth == 1):
        used = [paths.columns[item] for item in FEW_DEPTHS.active(arch).items()]
        assert len(used) == len(FEW_DEPTHS.choices()) - 3
        assert weight == pytest.approx(
            chances_of(paths, used, uniform=True) / chances_of(paths, used)
        )


def chances_of(
    paths: FactorisedPaths[Any], columns: Sequence[int], *, uniform: bool = False
) -> float:
    values = paths.uniform if uniform else paths.probabilities
    return float(np.prod([values[column] for column in columns]))


@pytest.mark.parametrize("draws", ["systematic", "independent"])
def test_the_weighted_gradient_of_examples_has_the_mean_over_all(draws: str) -> None:
    num_examples = 30
    supernet, arch = cells_supernet(), FEW_CELLS.largest()
    images, targets = some_batch(num_examples)
    losses = F.cross_entropy(supernet(images, arch=arch), targets, reduction="none")
    gradient = torch.autograd.grad(
        losses, supernet.head, torch.eye(num_examples).double(), is_grads_batched=True
    )[0].flatten(1)
    data, scores = ImportanceData(draws=draws, num_examples=num_examples), some_scores(num_examples)
    learn_data(data, scores)
    weight = torch.full((num_examples,), torch.nan, dtype=torch.float64)
    for seed in range(60):  # of the same probabilities, until every example was drawn
        indices, weights = data.draw(Generator().manual_seed(seed))
        weight[indices] = weights.double()
    assert_unequal(data.probabilities.tolist())
    found = ((data.probabilities * weight)[:, None] * gradient).sum(0)
    expected = gradient.mean(0)
    assert float((found - expected).norm()) <= 1e-6 * float(expected.norm())
    biased = (data.probabilities[:, None] * gradient).sum(0)
    assert float((biased - expected).norm()) > 1e-2 * float(expected.norm())


# Any observation


def test_every_option_keeps_its_floor_whatever_was_observed() -> None:
    space, generator = SPACES["vit"], Random(0)
    for attribution in ("path", "choice"):
        paths = FactorisedPaths(floor=0.3, attribution=attribution, space=space)
        for epoch in range(EPOCHS):
            paths.begin_epoch(epoch, EPOCHS)
            for _ in range(30):
                (path,) = paths.draw(generator)
                small = [0.0, 1e-30, 1.0]
                own = {
                    name: [1e30 if option == space.choices()[name][-1] else generator.choice(small)]
                    for name, option in space.active(path.arch).items()
                }
                paths.observe(path, PathGradient(own["embed_dim"][0], own))
        paths.strength = 1.0  # the most that could be asked for
        paths.probabilities = paths.mix(1.0)
        least = min(p / u for p, u in zip(paths.probabilities, paths.uniform, strict=True))
        assert 0.3 * (1 - 1e-9) <= least < 0.31
        for name, options in space.choices().items():
            own_columns = [paths.columns[name, option] for option in options]
            assert sum(paths.probabilities[c] for c in own_columns) == pytest.approx(1, rel=1e-12)


def test_every_example_keeps_its_floor_whatever_was_observed() -> None:
    data = ImportanceData(floor=0.2, num_examples=30)
    learn_data(data, torch.tensor([0.0, 1e-30, 1e30]).repeat(10).double())
    data.probabilities = data.mix(0.8)
    assert float(data.probabilities.sum()) == pytest.approx(1)
    assert float(30 * data.probabilities.min()) == pytest.approx(0.2)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9, 1 / 3])
def test_strength_zero_is_uniform_to_the_bit_at_any_share(share: float) -> None:
    for space in SPACES.values():
        paths = learned(FactorisedPaths, space, steps=20)
        paths.share = share
        assert paths.mix(0.0) == paths.uniform
        assert paths.mix(1.0) != paths.uniform


@pytest.mark.parametrize("space", FEW.values(), ids=FEW)
@pytest.mark.parametrize("norm", [0.0, 0.7])
@pytest.mark.parametrize("make", UNBIASED.values(), ids=UNBIASED)
def test_paths_of_equal_norms_stay_uniform_to_the_bit(
    make: Make, norm: float, space: Space[Any]
) -> None:
    def equal(space: Space[Any], arch: Any) -> PathGradient:
        return PathGradient(norm, {name: [norm] for name in space.active(arch)})

    paths = learned(make, space, gradient=equal)
    inner = paths.random if isinstance(paths, SandwichPaths) else paths
    assert isinstance(inner, FactorisedPaths)
    assert inner.share > 0
    assert (inner.strength, inner.gain) == (0.0, 1.0)
    generator = Random(1)
    assert {p.weight for _ in range(100) for p in paths.draw(generator)} == {1.0}
    assert paths.figures()["path_ess"] == pytest.approx(1)


def test_scores_of_zero_everywhere_leave_examples_uniform() -> None:
    for data in (ImportanceData(num_examples=11), PublishedData(num_examples=11)):
        _, weights = learn_data(data, torch.zeros(11, dtype=torch.float64))
        assert weights.tolist() == [1.0] * 11
        assert data.probabilities.tolist() == pytest.approx([1 / 11] * 11)


def test_published_paths_without_any_norm_stay_uniform() -> None:
    paths = learned(PublishedPaths, FEW_CELLS, gradient=lambda *_: PathGradient(0.0))
    assert list(paths.probabilities.values()) == [[0.5, 0.5]]


def test_options_that_are_not_drawn_keep_their_estimate_and_before_the_mean_of_the_others() -> None:
    space = FEW_DEPTHS
    paths, generator = FactorisedPaths(space=space), Random(0)
    rare = paths.columns["blocks.0.mlp_ratio", 3]
    other = paths.columns["blocks.0.mlp_ratio", 1]

    def observe(times: int, *, with_rare: bool) -> None:
        while times:
            (path,) = paths.draw(generator)
            if (rare in paths.columns_of(path.arch)) is with_rare:
                paths.observe(path, made_up(space, path.arch))
                times -= 1

    observe(80, with_rare=False)
    paths.begin_epoch(1, 2)
    assert paths.evidence[rare] == 0
    assert paths.probabilities[rare] == paths.probabilities[other] == 0.5
    observe(80, with_rare=True)
    known = paths.mean_squares[rare]
    assert known > paths.mean_squares[other] > 0
    observe(80, with_rare=False)
    paths.begin_epoch(1, 2)
    assert paths.mean_squares[rare] == known


def test_options_without_parameters_of_their_own_have_the_floor_alone() -> None:
    space = CellSpace(channels=3, num_cells=1)

    def own(space: Space[Any], arch: CellArch) -> PathGradient:
        norms = {"nor_conv_1x1": [3.0], "nor_conv_3x3": [9.0]}
        return PathGradient(
            1.0, {n: norms.get(str(op), []) for n, op in space.active(arch).items()}
        )

    paths = FactorisedPaths(attribution="choice", space=space)
    learn_paths(paths, space, gradient=own)
    paths.share = 0.8
    expected = [0.04 + 0.8 * norm / 12 for norm in (0, 0, 0, 3, 9)]
    assert paths.mix(1.0) == pytest.approx(expected * 6, rel=1e-6)


def test_an_example_that_is_not_drawn_keeps_its_score_and_before_counts_as_the_mean() -> None:
    data, generator = ImportanceData(decay=0.5, num_examples=4), Generator().manual_seed(0)
    data.draw_epoch(generator, 0, 2)
    data.observe(torch.tensor([0, 1, 1]), torch.tensor([2.0, 1.0, 7.0]))
    data.draw_epoch(generator, 1, 2)
    assert data.mean_squares.tolist() == [4.0, 25.0, 0.0, 0.0]
    expected = [0.125 + 0.5 * score / 14 for score in (2, 5, 3.5, 3.5)]
    assert data.mix(0.5).tolist() == pytest.approx(expected)
    data.observe(torch.tensor([0, 2]), torch.tensor([4.0, 3.0]))
    data.draw_epoch(generator, 1, 2)
    assert data.mean_squares.tolist() == [10.0, 25.0, 9.0, 0.0]
    before = data.probabilities.tolist()
    data.draw_epoch(generator, 1, 2)  # an epoch without observations changes nothing
    assert data.probabilities.tolist() == before


# What it saves


def second_moment(paths: PathSampler[Any], norm: Callable[[Any], float]) -> float:
    """Of the estimate of the mean gradient from one draw, by its definition."""
    return sum(squared * norm(arch) ** 2 for arch, (_, _, squared) in law(paths).items())


def norm_of(space: Space[Any]) -> Callable[[Any], float]:
    return lambda arch: made_up(space, arch).path


def observe_uniformly(paths: FactorisedPaths[Any], space: Space[Any]) -> None:
    """Every architecture as often as uniform draws have it, in random order."""
    archs = [a for a, chance in uniform_law(space).items() for _ in range(round(64 * chance))]
    Random(0).shuffle(archs)
    for arch in archs:
        paths.observe(Path(arch, "random"), made_up(space, arch))


@pytest.mark.parametrize("space", FEW.values(), ids=FEW)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_second_moment_of_factorised_paths_is_as_predicted(
    strength: float, space: Space[Any]
) -> None:
    paths = FactorisedPaths(space=space)
    observe_uniformly(paths, space)
    paths.share = 0.7
    paths.candidates = [paths.mix(each) for each in STRENGTHS]
    paths.draws = deque()
    observe_uniformly(paths, space)
    predicted = paths.second_moment(strength)
    paths.probabilities = paths.candidates[STRENGTHS.index(strength)]
    assert predicted == pytest.approx(second_moment(paths, norm_of(space)), rel=1e-9)


def test_the_second_moment_is_predicted_from_weighted_draws_too() -> None:
    paths = learned(FactorisedPaths, FEW_DEPTHS, steps=600)
    assert min(draw.ratio for draw in paths.draws) < 0.8
    expected = second_moment(paths, norm_of(FEW_DEPTHS))
    assert paths.second_moment(paths.strength) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("space", FEW.values(), ids=FEW)
def test_the_estimate_varies_less_than_with_uniform_paths(space: Space[Any]) -> None:
    norm, uniform = norm_of(space), uniform_law(space)
    paths = learned(FactorisedPaths, space, steps=200)
    plain = sum(chance * norm(arch) ** 2 for arch, chance in uniform.items())
    best = sum(chance * norm(arch) for arch, chance in uniform.items()) ** 2
    found = second_moment(paths, norm)
    assert best < found < plain
    assert (plain - found) / (plain - best) > 0.8
    assert found / plain == pytest.approx(paths.gain, rel=0.15)


def test_factorised_probabilities_approach_those_that_are_proportional_to_the_norms() -> None:
    paths = FactorisedPaths(decay=0.999, space=FEW_CELLS)
    learn_paths(paths, FEW_CELLS, steps=1500)
    assert paths.strength == 1.0
    expected = [0.1 + 0.8 * factor / 2.5 for factor in (1.0, 1.5)]
    assert paths.probabilities == pytest.approx(expected * 6, rel=0.05)
    assert paths.figures()["path_ess"] < 0.99


def test_the_estimate_varies_less_than_with_uniform_examples() -> None:
    data, scores = ImportanceData(num_examples=60), some_scores(60)
    learn_data(data, scores)
    found = float((scores**2 / (60 * data.probabilities)).mean())
    plain, best = float((scores**2).mean()), float(scores.mean() ** 2)
    assert best < found < best + 0.2 * (plain - best)
    assert found / plain == pytest.approx(data.gain, rel=0.1)
    assert data.share == pytest.approx(0.9)
    proportional = 0.1 / 60 + 0.9 * scores / scores.sum()
    assert_close(data.probabilities, proportional, rtol=0.1, atol=0)


def test_the_gain_of_factorised_paths_is_not_imagined_where_norms_are_noise() -> None:
    """Strengths are judged by draws that their importances know nothing of."""
    generator = Random(3)

    def noise(*_: object) -> PathGradient:
        return PathGradient(generator.lognormvariate(0, 0.7))

    gains = []
    for _ in range(8):
        paths = FactorisedPaths(space=SPACES["cell"])
        learn_paths(paths, SPACES["cell"], gradient=noise, steps=300)
        truly = 1.0  # second moment over uniform's, where norms do not depend on the path
        for name, options in paths.choices.items():
            chances = [paths.probabilities[paths.columns[name, option]] for option in options]
            truly *= sum(1 / (len(options) ** 2 * chance) for chance in chances)
        gains.append(truly)
    assert sum(gains) / len(gains) < 1.01


def test_an_options_mean_is_over_uniform_other_choices_whatever_they_were_drawn_by() -> None:
    """Where norms are large for two options together, a plain mean would see them everywhere."""

    def crossed(_: Space[Any], arch: CellArch) -> PathGradient:
        return PathGradient(4.0 if arch.operations[0] == arch.operations[1] else 1.0)

    paths = FactorisedPaths(decay=0.999, space=FEW_CELLS)
    skewed = [0.9, 0.1, *paths.uniform[2:]]
    generator = Random(0)
    for _ in range(6000):
        paths.probabilities = skewed
        (path,) = paths.draw(generator)
        paths.observe(path, crossed(FEW_CELLS, path.arch))
    for column in (2, 3):  # of the second edge; its partner is drawn 9 to 1
        assert paths.mean_squares[column] == pytest.approx((16 + 1) / 2, rel=0.15)


def test_importance_is_left_alone_where_norms_say_nothing() -> None:
    """Scores that change from epoch to epoch would only make weights unequal."""
    data, generator = ImportanceData(num_examples=300), Generator().manual_seed(0)
    for epoch in range(8):
        indices, _ = data.draw_epoch(generator, epoch, 8)
        scores = torch.rand(300, generator=generator).add(0.01)
        data.observe(indices, scores[indices])
    data.draw_epoch(generator, 7, 8)
    assert data.share <= 0.2


def test_the_share_of_importance_rises_linearly_and_then_stays() -> None:
    paths, shares = FactorisedPaths(floor=0.2, annealing=0.5, space=FEW_CELLS), []
    for epoch in range(9):
        paths.begin_epoch(epoch, 8)
        shares.append(paths.share)
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, *[0.8] * 5])


# As published


def by_hand(archs: list[list[int]], norms: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """Section by section what the released code does after an epoch: the probability of each
    operation, from the operations (step, edge) drawn and the norms (step, edge, cell)."""
    statistic = np.zeros(5)
    for step, operations in enumerate(archs):
        for operation in (3, 4):  # those with a convolution
            edges = [edge for edge, found in enumerate(operations) if found == operation]
            if edges:
                whole = sum(norms[step, edge, cell] for edge in edges for cell in range(3))
                statistic[operation] = (statistic[operation] + whole / len(edges)) / 2
    tau = epoch / epochs
    return tau * statistic / statistic.sum() + (1 - tau) / 5


def test_published_paths_have_the_probabilities_of_the_released_code() -> None:
    space = CellSpace(channels=3, num_cells=1)
    paths, generator, epochs = PublishedPaths(space=space), Random(0), 6
    noise = np.random.default_rng(0)
    expected = np.full(5, 0.2)
    for epoch in range(epochs):
        paths.begin_epoch(epoch, epochs)
        (found,) = paths.probabilities.values()  # all edges of one kind
        assert found == pytest.approx(expected.tolist(), rel=1e-12)
        if epoch < 2:
            assert found == [0.2] * 5
        else:
            tau = (epoch - 1) / epochs
            assert found[:3] == pytest.approx([(1 - tau) / 5] * 3, rel=1e-15)
        archs, norms = [], noise.lognormal(size=(25, 6, 3))
        for step in range(25):
            (path,) = paths.draw(generator)
            assert path.weight == 1.0
            places = [OPERATIONS.index(op) for op in path.arch.operations]
            own = {
                name: norms[step, edge].tolist() if places[edge] > 2 else []
                for edge, name in enumerate(space.choices())
            }
            paths.observe(path, PathGradient(1.0, own))
            archs.append(places)
        expected = by_hand(archs, norms, epoch, epochs)


def test_published_choices_of_one_kind_share_their_distribution() -> None:
    assert {kind_of(name) for name in FEW_CELLS.choices()} == {"edges."}
    kinds = {"embed_dim", "depth", "num_atoms"}
    per_block = {f"blocks..{name}" for name in ("num_heads", "mlp_ratio", "rank")}
    assert {kind_of(name) for name in FEW_DEPTHS.choices()} == kinds | per_block


def test_published_examples_have_the_probabilities_of_the_released_code() -> None:
    num_examples, epochs, size = 20, 6, 5
    data, generator = PublishedData(num_examples=num_examples), Generator().manual_seed(0)
    noise, expected = np.random.default_rng(0), np.full(num_examples, 1 / num_examples)
    for epoch in range(epochs):
        indices, weights = data.draw_epoch(generator, epoch, epochs)
        assert data.probabilities.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
        assert (epoch >= 2) is bool(expected.max() > expected.min())
        assert set(weights.tolist()) == {1.0}
        running: dict[int, float] = {}
        for batch in indices.split(size):
            scores = noise.lognormal(size=size)
            data.observe(batch, torch.from_numpy(scores))
            before = dict(running)  # each draw is averaged with what was known before the batch
            for index, score in zip(batch.tolist(), scores, strict=True):
                running[index] = (before[index] + score) / 2 if index in before else score
        statistic = np.array([running.get(index, 0.0) for index in range(num_examples)])
        tau = epoch / epochs
        expected = tau * statistic / statistic.sum() + (1 - tau) / num_examples
    assert len(set(indices.tolist())) < num_examples  # with replacement
