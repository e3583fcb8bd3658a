"""What every weight source must do. Yours is held to it by

    class TestMine(SourceContract):
        def make(self, shape: SourceShape, generator: Generator) -> MySource:
            return MySource(shape=shape, generator=generator)

Letters: L layers, m layers in use, O and o outputs, I and i inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from supernet.sources.source import SharingArch, Sizes, SourceShape, WeightSource
from tests.helpers.spaces import shake

SHAPE = SourceShape(num_layers=4, out_features=11, in_features=7, num_atoms=3, rank=5)
EVEN: Sizes = [(11, 7)] * 4
UNEVEN: Sizes = [(6, 5), (11, 5), (8, 5)]  # as of layers with different numbers of heads


@dataclass(frozen=True)
class Sharing:
    """What sources read of an architecture."""

    rank: tuple[int, ...]
    num_atoms: int


class SourceContract:
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        raise NotImplementedError

    def source(self, seed: int = 0) -> WeightSource:
        """One whose parameters are all random, as after training."""
        generator = Generator().manual_seed(seed)
        source = self.make(SHAPE, generator)
        shake(source, generator)
        return source

    def archs(self, num_layers: int) -> list[SharingArch]:
        """Of what the source reads the smallest, the largest and some others; 0 of the rest."""
        read, generator = self.source().dimensions, Random(0)

        def ranks(low: int, high: int) -> tuple[int, ...]:
            used = "rank" in read
            return tuple(generator.randint(low, high) if used else 0 for _ in range(num_layers))

        def atoms(low: int, high: int) -> int:
            return generator.randint(low, high) if "num_atoms" in read else 0

        bounds = [(1, 1), (SHAPE.rank, SHAPE.rank), (0, 2), (0, SHAPE.rank)]
        return [
            Sharing(ranks(low, high), atoms(max(1, min(low, 3)), min(max(high, 1), 3)))
            for low, high in bounds
        ]

    def cases(self) -> Iterator[tuple[Sizes, SharingArch]]:
        for sizes in (EVEN, UNEVEN, EVEN[:1]):
            for arch in self.archs(len(sizes)):
                yield sizes, arch

    def test_it_reads_fields_that_sources_may_read(self) -> None:
        assert self.source().dimensions <= {"rank", "num_atoms"}

    def test_weights_have_their_shape_and_can_be_trained(self) -> None:
        for sizes, arch in self.cases():
            source = self.source()
            weight = source.weight(range(len(sizes)), 6, 5, arch)
            assert weight.shape == (len(sizes), 6, 5)
            assert weight.dtype == next(source.parameters()).dtype
            weight.sum().backward()
            learning = any(p.grad is not None and bool(p.grad.any()) for p in source.parameters())
            assert learning or (source.dimensions == {"rank"} and not any(arch.rank))

    def test_smaller_weights_are_leading_slices_of_larger_ones(self) -> None:
        source = self.source()
        for arch in self.archs(4):
            whole = source.weight(range(4), 11, 7, arch)
            part = source.weight(range(1, 3), 6, 5, arch)
            assert_close(part, whole[1:3, :6, :5], atol=1e-6, rtol=0)

    def test_a_layer_composed_alone_is_merged_from_its_factors_to_the_bit(self) -> None:
        source = self.source()
        for sizes, arch in self.cases():
            factors = source.factors(sizes, arch)
            for layer, (o, i) in enumerate(sizes):
                alone = source.weight(range(layer, layer + 1), o, i, arch)[0]
                assert torch.equal(source.merge(factors, layer, o, i), alone)

    def test_factors_are_views_that_fit_into_the_parameters(self) -> None:
        source = self.source()
        whole = sum(parameter.numel() for parameter in source.parameters())
        for sizes, arch in self.cases():
            factors = source.factors(sizes, arch)
            assert sum(tensor.numel() for tensor in factors.values()) <= whole

    def test_initial_weights_are_a_function_of_the_generator(self) -> None:
        before = torch.get_rng_state()
        first, same, other = (
            self.make(SHAPE, Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
        )
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_gradients_reach_the_slices_and_nothing_else(self) -> None:
        for sizes, arch in self.cases():
            source = self.source()
            used = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in source.parameters()}
            for part in source.slices(sizes, arch).values():
                used[id(part.parameter)][part.place] = True
            for layer, (o, i) in enumerate(sizes):
                source.weight(range(layer, layer + 1), o, i, arch).square().sum().backward()
            for parameter in source.parameters():
                if parameter.grad is not None:
                    assert not parameter.grad[~used[id(parameter)]].any()

    def test_gradients_are_told_as_views_of_the_slices_once_each(self) -> None:
        for sizes, arch in self.cases():
            source = self.source()
            assert not any(source.gradients(sizes, arch).values())
            source.weight(range(len(sizes)), 11, 7, arch).square().sum().backward()
            found = source.gradients(sizes, arch)
            owners = {f"{kind}.{at}" for kind in ("layers", "adapters") for at in range(len(sizes))}
            assert found.keys() <= owners | {"shared"}
            told = [view.data_ptr() for views in found.values() for view in views]
            parts = [part.gradient() for part in source.slices(sizes, arch).values()]
            assert sorted(told) == sorted(view.data_ptr() for part in parts for view in part)

    def test_a_layers_own_gradients_do_not_come_from_other_layers(self) -> None:
        for arch in self.archs(4):
            source = self.source()
            source.weight(range(1, 3), 11, 7, arch).square().sum().backward()
            found = source.gradients(EVEN, arch)
            for layer in (0, 3):
                own = found[f"layers.{layer}"] + found[f"adapters.{layer}"]
                assert not any(bool(view.any()) for view in own)

    def test_fitting_what_it_composes_changes_nothing(self) -> None:
        for sizes, arch in self.cases():
            source = self.source()
            wanted = composed(source, sizes, arch)
            with torch.no_grad():
                source.fit(wanted, arch)
            for found, weight in zip(composed(source, sizes, arch), wanted, strict=True):
                assert_close(found, weight, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("seed", [1, 2])
    def test_a_fit_comes_closer_and_stays_where_it_is(self, seed: int) -> None:
        generator = Generator().manual_seed(seed)
        for sizes, arch in self.cases():
            source = self.source()
            wanted = [torch.randn(size, generator=generator) for size in sizes]
            errors = [distance(composed(source, sizes, arch), wanted)]
            for _ in range(2):
                with torch.no_grad():
                    source.fit(wanted, arch)
                errors.append(distance(composed(source, sizes, arch), wanted))
            first, second, third = errors
            assert second < first or (source.dimensions == {"rank"} and not any(arch.rank))
            assert third <= second * (1 + 1e-6) + 1e-6

    def test_a_fit_leaves_the_layers_alone_that_are_not_in_use(self) -> None:
        for arch in self.archs(4):
            source = self.source()
            before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
            with torch.no_grad():
                source.fit(composed(self.source(1), EVEN[:2], arch), arch)
            changed = {n: (t != before[n]) for n, t in source.state_dict().items()}
            assert any(bool(where.any()) for where in changed.values())
            for where in changed.values():
                if len(where) == SHAPE.num_layers:
                    assert not where[2:].any()


@torch.no_grad()
def composed(source: WeightSource, sizes: Sizes, arch: SharingArch) -> list[Tensor]:
    """Copies of each layer's weight."""
    return [
        source.weight(range(layer, layer + 1), o, i, arch)[0].detach().clone()
        for layer, (o, i) in enumerate(sizes)
    ]


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(found, wanted, strict=True)))
