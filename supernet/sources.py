"""Weight sources: where the weights of one role (q, k, v, o, fc1, fc2) in all layers come from.

A source holds every layer of its role, its parameters stacked on the layer axis, and composes the
weights of the leading layers and sizes that a subnet uses. Factors are sliced first and composed
afterwards, so the cost follows the subnet's size.

Letters: L layers, O x I largest shape, m layers and o x i sizes in use, S atoms (s in use),
R largest rank (r in use).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

Sizes = Sequence[tuple[int, int]]


class SharingArch(Protocol):
    """What a source reads of an architecture."""

    @property
    def rank(self) -> tuple[int, ...]: ...

    @property
    def num_atoms(self) -> int: ...


@dataclass(frozen=True)
class SourceShape:
    """The largest sizes that a source must serve."""

    num_layers: int
    out_features: int
    in_features: int
    num_atoms: int
    rank: int


class WeightSource(nn.Module, ABC):
    """The weights of one role; `dimensions` names the fields of an architecture that it reads."""

    dimensions: frozenset[str] = frozenset()

    @abstractmethod
    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        """Weights (m, o, i) of consecutive layers, differentiable, in parameter dtype."""

    @abstractmethod
    def factors(self, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        """Views of what a subnet must store, by name; `merge` composes them again.

        `sizes` has (o, i) of each layer. A shared tensor is the bounding box of the layers' slices.
        """

    @abstractmethod
    def own_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        """Gradients of what no other layer uses, views of the slices in use; absent ones left out.

        Shared atoms are not among them: their gradient is a sum over layers.
        """

    def rank_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        """Those of `own_gradients` that the layer's rank decides about."""
        return []

    def shared_gradients(self, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        """Gradients of the atoms in use that layers share."""
        return []


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
SourceFactory = Callable[..., WeightSource]  # likewise


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


class Factors(WeightSource):
    """Low-rank weights (alpha / R) B_l A_l, of which block l uses the first rank[l] components.

    The scale stays alpha / R at every rank, so that a truncated adapter keeps the size of its
    components. B begins at zero. LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685); elastic
    rank as in Shears (Munoz et al., 2024, https://arxiv.org/abs/2404.10934).
    """

    dimensions = frozenset({"rank"})

    def __init__(self, alpha: float, *, shape: SourceShape, generator: Generator) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        if shape.rank == 0:
            raise ValueError("space.rank must reach above 0, since source has factors, got 0")
        self.scale = alpha / shape.rank
        a = torch.randn(shape.num_layers, shape.rank, shape.in_features, generator=generator)
        self.a = nn.Parameter(a * shape.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(shape.num_layers, shape.out_features, shape.rank))

    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        ranks = arch.rank[layers.start : layers.stop]
        r = max(ranks)
        a = self.a[layers.start : layers.stop, :r, :i]
        if min(ranks) < r:
            used = torch.arange(r) < torch.tensor(ranks)[:, None]  # (m, r)
            a = a * used[..., None].to(a)
        return torch.bmm(self.b[layers.start : layers.stop, :o, :r] * self.scale, a)

    def factors(self, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        factors = {}
        for layer, (o, i) in enumerate(sizes):
            r = arch.rank[layer]
            factors[f"layers.{layer}.b"] = self.b[layer, :o, :r] * self.scale
            factors[f"layers.{layer}.a"] = self.a[layer, :r, :i]
        return factors

    def own_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        r = arch.rank[layer]
        if r == 0:
            return []
        return gradient(self.a, layer, slice(r), slice(i)) + gradient(
            self.b, layer, slice(o), slice(r)
        )

    def rank_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return self.own_gradients(layer, o, i, arch)


class Sum(WeightSource):
    """The sum of several sources: a dictionary with adapters, say."""

    def __init__(
        self, parts: Sequence[SourceFactory], *, shape: SourceShape, generator: Generator
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts must have at least one source, got none")
        self.parts = nn.ModuleList(part(shape=shape, generator=generator) for part in parts)
        self.dimensions = frozenset().union(*(part.dimensions for part in self._sources()))

    def _sources(self) -> list[WeightSource]:
        return [part for part in self.parts if isinstance(part, WeightSource)]

    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        first, *others = (part.weight(layers, o, i, arch) for part in self._sources())
        for other in others:
            first = first + other
        return first

    def factors(self, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        return {
            f"parts.{index}.{name}": tensor
            for index, part in enumerate(self._sources())
            for name, tensor in part.factors(sizes, arch).items()
        }

    def own_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return [g for part in self._sources() for g in part.own_gradients(layer, o, i, arch)]

    def rank_gradients(self, layer: int, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return [g for part in self._sources() for g in part.rank_gradients(layer, o, i, arch)]

    def shared_gradients(self, o: int, i: int, arch: SharingArch) -> list[Tensor]:
        return [g for part in self._sources() for g in part.shared_gradients(o, i, arch)]


def gradient(parameter: Tensor, *place: int | slice) -> list[Tensor]:
    """The view parameter.grad[place] as the only entry; no entry where there is no gradient."""
    return [] if parameter.grad is None else [parameter.grad[place]]


def mix_atoms(coefficients: Tensor, atoms: Tensor) -> Tensor:
    """Coefficients (m, s) times atoms (s, o, i): all layers in one product, (m, o, i)."""
    return torch.tensordot(coefficients, atoms, dims=1)


def merge(factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
    """The weight (o, i) of one layer from what `WeightSource.factors` returned.

    The same operations in the same order as composing that layer alone, so equal to the bit.
    """
    if parts := sorted({int(name.split(".")[1]) for name in factors if name.startswith("parts.")}):
        weights = [merge(below(factors, f"parts.{part}."), layer, o, i) for part in parts]
        total = weights[0]
        for weight in weights[1:]:
            total = total + weight
        return total
    if "atoms" in factors:
        return mix_atoms(factors["coefficients"][layer : layer + 1], factors["atoms"][:, :o, :i])[0]
    if f"layers.{layer}.weight" in factors:
        return factors[f"layers.{layer}.weight"]
    return torch.bmm(factors[f"layers.{layer}.b"][None], factors[f"layers.{layer}.a"][None])[0]


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
