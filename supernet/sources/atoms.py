"""Atoms: a dictionary of matrices, from which each layer's weight is mixed."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from supernet.sources.source import (
    SharingArch,
    Sizes,
    SourceShape,
    WeightSource,
    gradient,
    mix_atoms,
)


class Coefficients(nn.Module, ABC):
    """How layers are mixed from atoms; `num_atoms` is the size of the dictionary."""

    num_atoms: int
    dimensions: frozenset[str] = frozenset()

    @abstractmethod
    def mix(self, atoms: Tensor, layers: range, arch: SharingArch) -> Tensor:
        """Weights (m, o, i) from atoms (S, o, i)."""

    @abstractmethod
    def factors(self, atoms: Tensor, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        """As `WeightSource.factors`, from atoms (S, O, I)."""

    @abstractmethod
    def own_gradients(
        self, atoms: Tensor, layer: int, o: int, i: int, arch: SharingArch
    ) -> list[Tensor]:
        """As `WeightSource.own_gradients`, of the coefficients and of atoms (S, O, I)."""

    @abstractmethod
    def shared_gradients(self, atoms: Tensor, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        """As `WeightSource.shared_gradients`, of atoms (S, O, I)."""


class OneHot(Coefficients):
    """Layer l is atom l: weights of each layer's own, merely entangled.

    AutoFormer (Chen et al., 2021, https://arxiv.org/abs/2107.00651).
    """

    def __init__(self, *, shape: SourceShape, generator: Generator) -> None:
        super().__init__()
        self.num_atoms = shape.num_layers

    def mix(self, atoms: Tensor, layers: range, arch: SharingArch) -> Tensor:
        return atoms[layers.start : layers.stop]

    def factors(self, atoms: Tensor, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        return {
            f"layers.{layer}.weight": atoms[layer, :o, :i] for layer, (o, i) in enumerate(sizes)
        }

    def own_gradients(
        self, atoms: Tensor, layer: int, o: int, i: int, arch: SharingArch
    ) -> list[Tensor]:
        return gradient(atoms, layer, slice(o), slice(i))

    def shared_gradients(self, atoms: Tensor, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return []


class Free(Coefficients):
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
        return mix_atoms(coefficients, atoms[: arch.num_atoms])

    def factors(self, atoms: Tensor, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        o, i = max(o for o, _ in sizes), max(i for _, i in sizes)
        return {
            "atoms": atoms[: arch.num_atoms, :o, :i],
            "coefficients": self.coefficients[: len(sizes), : arch.num_atoms],
        }

    def own_gradients(
        self, atoms: Tensor, layer: int, o: int, i: int, arch: SharingArch
    ) -> list[Tensor]:
        return gradient(self.coefficients, layer, slice(arch.num_atoms))

    def shared_gradients(self, atoms: Tensor, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return gradient(atoms, slice(arch.num_atoms), slice(o), slice(i))


CoefficientsFactory = Callable[..., Coefficients]  # called with shape and generator


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

    def factors(self, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        return self.coefficients.factors(self.atoms, sizes, arch)

    def own_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return self.coefficients.own_gradients(self.atoms, layer, o, i, arch)

    def shared_gradients(self, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return self.coefficients.shared_gradients(self.atoms, o, i, arch)
