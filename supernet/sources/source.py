"""What a weight source is, sums of sources, and how factors become weights again."""

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


SourceFactory = Callable[..., WeightSource]  # likewise


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
