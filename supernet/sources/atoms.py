"""Atoms: a dictionary of matrices, from which each layer's weight is mixed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from supernet.sources.source import (
    SharingArch,
    Sizes,
    Slice,
    SourceShape,
    WeightSource,
    fit_product,
)

ROUNDS = 30  # of fitting layers of different sizes


class OneHot(nn.Module):
    """Layer l is atom l: weights of each layer's own, merely entangled.

    AutoFormer (Chen et al., 2021, https://arxiv.org/abs/2107.00651).
    """

    dimensions: frozenset[str] = frozenset()

    def __init__(self, *, shape: SourceShape, generator: Generator) -> None:
        super().__init__()
        self.num_atoms = shape.num_layers

    def mix(self, atoms: Tensor, layers: range, arch: SharingArch) -> Tensor:
        return atoms[layers.start : layers.stop]

    def slices(self, atoms: nn.Parameter, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        return {
            f"layers.{layer}.weight": Slice(atoms, (layer, slice(o), slice(i)))
            for layer, (o, i) in enumerate(sizes)
        }

    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        return factors[f"layers.{layer}.weight"]

    def fit(self, atoms: Tensor, weights: Sequence[Tensor], arch: SharingArch) -> None:
        for atom, weight in zip(atoms, weights, strict=False):
            o, i = weight.shape
            atom[:o, :i] = weight


class Free(nn.Module):
    """Layer l is sum_s c_ls D_s over the first s atoms, every c_ls trained.

    MASA (Zhussip et al., 2025, https://arxiv.org/abs/2508.04581). Rows of c begin as random
    directions of unit length, so that a composed weight has an atom's variance.
    """

    dimensions = frozenset({"num_atoms"})

    def __init__(self, *, shape: SourceShape, generator: Generator) -> None:
        super().__init__()
        self.num_atoms = shape.num_atoms
        directions = torch.randn(shape.num_layers, shape.num_atoms, generator=generator)
        self.coefficients = nn.Parameter(nn.functional.normalize(directions, dim=1))

    def mix(self, atoms: Tensor, layers: range, arch: SharingArch) -> Tensor:
        coefficients = self.coefficients[layers.start : layers.stop, : arch.num_atoms]
        return torch.tensordot(coefficients, atoms[: arch.num_atoms], dims=1)

    def slices(self, atoms: nn.Parameter, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        o, i, used = max(o for o, _ in sizes), max(i for _, i in sizes), slice(arch.num_atoms)
        found = {"atoms": Slice(atoms, (used, slice(o), slice(i)))}
        for layer in range(len(sizes)):
            found[f"layers.{layer}.coefficients"] = Slice(self.coefficients, (layer, used))
        return found

    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        coefficients = factors[f"layers.{layer}.coefficients"][None]
        return torch.tensordot(coefficients, factors["atoms"][:, :o, :i], dims=1)[0]

    def fit(self, atoms: Tensor, weights: Sequence[Tensor], arch: SharingArch) -> None:
        """Where layers differ in size, what one lacks is what was composed in the round before."""
        o, i = max(len(weight) for weight in weights), max(w.shape[1] for w in weights)
        count, used = len(weights), slice(arch.num_atoms)
        is_even = all(weight.shape == (o, i) for weight in weights)
        for _ in range(1 if is_even else ROUNDS):
            stack = self.mix(atoms[:, :o, :i], range(count), arch)
            for whole, weight in zip(stack, weights, strict=True):
                whole[: len(weight), : weight.shape[1]] = weight
            fit_product(self.coefficients[:count, used], atoms[used, :o, :i], stack)


# How layers are mixed from atoms (S, O, I), `num_atoms` in all: `mix` makes weights (m, o, i) from
# atoms (S, o, i), the other methods are as in `WeightSource`. Called with shape and generator.
CoefficientsFactory = Callable[..., OneHot | Free]


class Atoms(WeightSource):
    """A dictionary of matrices (S, O, I), from which each layer's weight is mixed."""

    def __init__(
        self, coefficients: CoefficientsFactory, *, shape: SourceShape, generator: Generator
    ) -> None:
        super().__init__()
        self.coefficients = coefficients(shape=shape, generator=generator)
        self.dimensions = self.coefficients.dimensions
        atoms = torch.empty(self.coefficients.num_atoms, shape.out_features, shape.in_features)
        # Glorot's variance at the largest shape, as in the original ViT; a constant 0.02, as in
        # timm, leaves narrow networks with almost no signal.
        std = (2 / (shape.out_features + shape.in_features)) ** 0.5
        self.atoms = nn.Parameter(nn.init.trunc_normal_(atoms, std=std, generator=generator))

    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        return self.coefficients.mix(self.atoms[:, :o, :i], layers, arch)

    def slices(self, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        return self.coefficients.slices(self.atoms, sizes, arch)

    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        return self.coefficients.merge(factors, layer, o, i)

    def fit(self, weights: Sequence[Tensor], arch: SharingArch) -> None:
        self.coefficients.fit(self.atoms, weights, arch)
