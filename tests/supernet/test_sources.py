"""Every weight source keeps the contract of sources; then what each composes, and how it fits."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from supernet.sources.low_rank import Factors
from supernet.sources.source import (
    Sizes,
    SourceFactory,
    SourceShape,
    Sum,
    WeightSource,
    below,
    fit_product,
)
from tests.contracts.source import EVEN, SHAPE, UNEVEN, Sharing, SourceContract, composed, distance
from tests.helpers.spaces import ADAPTERS, ATOMS, ATOMS_ADAPTERS, OWN, shake


class TestOwn(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return OWN(shape=shape, generator=generator)


class TestAtoms(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return ATOMS(shape=shape, generator=generator)


class TestFactors(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return ADAPTERS(shape=shape, generator=generator)


class TestAtomsAndAdapters(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return ATOMS_ADAPTERS(shape=shape, generator=generator)


class TestOwnAndAdapters(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return Sum([OWN, ADAPTERS], shape=shape, generator=generator)


def fresh(factory: SourceFactory, seed: int = 0) -> WeightSource:
    return factory(shape=SHAPE, generator=Generator().manual_seed(seed))


def some_weights(sizes: Sizes) -> list[Tensor]:
    generator = Generator().manual_seed(9)
    return [torch.randn(size, generator=generator) for size in sizes]


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of a rank, by numpy's singular values."""
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def fitted(source: WeightSource, weights: list[Tensor], arch: Sharing) -> np.ndarray:
    with torch.no_grad():
        source.fit(weights, arch)
    sizes = [(len(weight), weight.shape[1]) for weight in weights]
    return torch.stack(composed(source, sizes, arch)).numpy()


# What they compose


def test_a_sum_of_atoms_and_adapters_composes_what_their_definitions_say() -> None:
    source = fresh(ATOMS_ADAPTERS)
    shake(source, Generator().manual_seed(1))
    arch = Sharing(rank=(3, 0, 5), num_atoms=2)
    parameters = dict(source.named_parameters())
    atoms = parameters["parts.0.atoms"].double()
    coefficients = parameters["parts.0.coefficients.coefficients"].double()
    a, b = parameters["parts.1.a"].double(), parameters["parts.1.b"].double()
    for layer, (o, i) in enumerate(UNEVEN):
        expected = torch.zeros(o, i, dtype=torch.float64)
        for s in range(arch.num_atoms):
            expected += coefficients[layer, s] * atoms[s, :o, :i]
        for r in range(arch.rank[layer]):
            outer = torch.outer(b[layer, :o, r], a[layer, r, :i])
            expected += 6.0 / 5 * outer  # alpha over the largest rank, at every rank
        found = source.weight(range(layer, layer + 1), o, i, arch)[0]
        assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_adapters_begin_at_zero() -> None:
    arch = Sharing(rank=(5,) * 4, num_atoms=3)
    assert not fresh(ADAPTERS).weight(range(4), 11, 7, arch).any()


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_scale_of_adapters_that_is_not_positive_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha must be positive, got {alpha}"):
        fresh(partial(Factors, alpha))


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="parts must have at least one source"):
        fresh(partial(Sum, []))


def test_below_strips_only_the_prefix() -> None:
    tensors = {"q.atoms": torch.ones(1), "qq.atoms": torch.zeros(1)}
    assert below(tensors, "q.").keys() == {"atoms"}


# How they are fitted


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, EVEN[:1]], ids=["even", "uneven", "one"])
def test_weights_of_each_layers_own_are_fitted_to_the_bit(
    sizes: Sizes,
) -> None:
    source, wanted = fresh(OWN), some_weights(sizes)
    before = source.get_parameter("atoms").detach().clone()
    with torch.no_grad():
        source.fit(wanted, Sharing((0,) * len(sizes), 0))
    atoms = source.get_parameter("atoms").detach()
    for layer, weight in enumerate(wanted):
        o, i = weight.shape
        assert torch.equal(atoms[layer, :o, :i], weight)
        assert torch.equal(atoms[layer, o:], before[layer, o:])
        assert torch.equal(atoms[layer, :, i:], before[layer, :, i:])
    assert torch.equal(atoms[len(sizes) :], before[len(sizes) :])


@pytest.mark.parametrize("num_atoms", [1, 2, 3])
def test_atoms_are_fitted_as_well_as_any_of_their_number_could_be(num_atoms: int) -> None:
    wanted = some_weights(EVEN)
    found = fitted(fresh(ATOMS), wanted, Sharing((0,) * 4, num_atoms))
    flat = torch.stack(wanted).flatten(1).numpy()
    np.testing.assert_allclose(found.reshape(4, -1), truncated(flat, num_atoms), atol=1e-5)


def test_as_many_atoms_as_layers_are_exact() -> None:
    wanted = some_weights(EVEN[:3])
    found = fitted(fresh(ATOMS), wanted, Sharing((0,) * 3, 3))
    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), atol=1e-5)


def test_atoms_for_layers_of_different_sizes_are_fitted_to_what_each_has() -> None:
    """Better than to zeros in the place of what a smaller layer lacks."""
    wanted, arch = some_weights(UNEVEN), Sharing((0,) * 3, 2)
    source, padded = fresh(ATOMS), fresh(ATOMS)
    filled = [torch.zeros(11, 5) for _ in UNEVEN]
    for whole, weight in zip(filled, wanted, strict=True):
        whole[: len(weight), : weight.shape[1]] = weight
    with torch.no_grad():
        source.fit(wanted, arch)
        padded.fit(filled, arch)
    assert distance(composed(source, UNEVEN, arch), wanted) < 0.98 * distance(
        composed(padded, UNEVEN, arch), wanted
    )


def test_atoms_that_a_fit_does_not_need_can_still_learn() -> None:
    source, arch = fresh(ATOMS), Sharing((0,), 3)
    with torch.no_grad():
        source.fit(some_weights(EVEN[:1]), arch)
    source.weight(range(1), 11, 7, arch).square().sum().backward()
    gradient = source.get_parameter("coefficients.coefficients").grad
    assert gradient is not None
    assert bool((gradient[0] != 0).all())


@pytest.mark.parametrize("ranks", [(5, 5, 5, 5), (1, 0, 3, 5)])
def test_adapters_are_fitted_as_well_as_any_of_their_rank_could_be(ranks: tuple[int, ...]) -> None:
    wanted = some_weights(EVEN)
    found = fitted(fresh(ADAPTERS), wanted, Sharing(ranks, 0))
    for layer, weight in enumerate(wanted):
        expected = truncated(weight.numpy(), ranks[layer])
        np.testing.assert_allclose(found[layer], expected, atol=1e-5)


def test_fresh_adapters_are_fitted_to_what_the_atoms_before_them_leave() -> None:
    wanted, arch = some_weights(EVEN), Sharing((2, 1, 0, 5), 2)
    found = fitted(fresh(ATOMS_ADAPTERS), wanted, arch)
    whole = torch.stack(wanted).flatten(1).numpy()
    shared = truncated(whole, 2).reshape(4, 11, 7)
    for layer, weight in enumerate(wanted):
        left = truncated(weight.numpy() - shared[layer], arch.rank[layer])
        np.testing.assert_allclose(found[layer], shared[layer] + left, atol=1e-5)


def test_a_product_of_more_columns_than_the_matrix_has_ranks_is_exact() -> None:
    matrix = torch.outer(torch.arange(3.0), torch.ones(4))
    left, right = torch.ones(3, 5), torch.ones(5, 2, 2)
    fit_product(left, right, matrix.view(3, 2, 2))
    assert_close(left @ right.flatten(1), matrix)
    assert not left[:, 1:].any()
    assert torch.equal(right[1:], torch.ones(4, 2, 2))
