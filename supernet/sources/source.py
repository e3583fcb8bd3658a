"""What a weight source is, sums of sources, and how factors become weights again."""

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol

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


class Slice(NamedTuple):
    """What a subnet uses of a parameter; it is stored times `scale`."""

    parameter: nn.Parameter
    place: tuple[int | slice, ...]
    scale: float = 1.0

    def value(self) -> Tensor:
        view = self.parameter[self.place]
        return view if self.scale == 1 else view * self.scale

    def gradient(self) -> list[Tensor]:
        """The view of the parameter's gradient as the only entry; none where it has no elements."""
        view = None if self.parameter.grad is None else self.parameter.grad[self.place]
        return [] if view is None or view.numel() == 0 else [view]


class WeightSource(nn.Module, ABC):
    """The weights of one role; `dimensions` names the fields of an architecture that it reads."""

    dimensions: frozenset[str] = frozenset()

    @abstractmethod
    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        """Weights (m, o, i) of consecutive layers, differentiable, in parameter dtype."""

    @abstractmethod
    def slices(self, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        """What a subnet whose layers have the (o, i) of `sizes` must store, by name.

        A name says whose it is: `layers.<l>.` is layer l's alone, and so is `adapters.<l>.`, which
        the layer's rank decides about; others are shared, the bounding box of the layers' slices.
        What is named `layers.<l>.weight` is the whole weight of a layer.
        """

    @abstractmethod
    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        """The weight (o, i) of one layer from what `factors` returned.

        The same operations in the same order as composing that layer alone, so equal to the bit.
        """

    @abstractmethod
    def fit(self, weights: Sequence[Tensor], arch: SharingArch) -> None:
        """Brings the weights of the leading layers close to `weights`, each (o, i), by changing
        the slices in use; to be called without gradients."""

    def factors(self, sizes: Sizes, arch: SharingArch) -> dict[str, Tensor]:
        """The values of `slices`."""
        return {name: part.value() for name, part in self.slices(sizes, arch).items()}

    def gradients(self, sizes: Sizes, arch: SharingArch) -> dict[str, list[Tensor]]:
        """Views of the gradients of `slices` by layers.<l>, adapters.<l> and shared.

        Shared gradients are sums over layers. Absent and empty ones are left out.
        """
        found: dict[str, list[Tensor]] = defaultdict(list)
        for name, part in self.slices(sizes, arch).items():
            owner = re.search(r"\b(layers|adapters)\.\d+", name)
            found[owner[0] if owner else "shared"] += part.gradient()
        return found


SourceFactory = Callable[..., WeightSource]  # called with shape and generator


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
        return reduce(torch.add, [part.weight(layers, o, i, arch) for part in self._sources()])

    def slices(self, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        return {
            f"parts.{index}.{name}": part
            for index, source in enumerate(self._sources())
            for name, part in source.slices(sizes, arch).items()
        }

    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        weights = [
            part.merge(below(factors, f"parts.{index}."), layer, o, i)
            for index, part in enumerate(self._sources())
        ]
        return reduce(torch.add, weights)

    def fit(self, weights: Sequence[Tensor], arch: SharingArch) -> None:
        """Each part in turn is fitted to what the others leave: adapters that begin at zero, to
        what the dictionary before them leaves."""

        def now(source: WeightSource, layer: int) -> Tensor:
            o, i = weights[layer].shape
            return source.weight(range(layer, layer + 1), o, i, arch)[0]

        for part in self._sources():
            left = [w - (now(self, place) - now(part, place)) for place, w in enumerate(weights)]
            part.fit(left, arch)


def fit_product(left: Tensor, right: Tensor, matrix: Tensor) -> None:
    """Makes left (m, r) times right (r, ...) the best approximation of a matrix (m, ...).

    By its largest singular values (Eckart & Young, 1936), shared alike by both factors. Components
    that it does not need are zero in `left` alone, so that a gradient reaches them.
    """
    u, s, v = torch.linalg.svd(matrix.flatten(1).double(), full_matrices=False)
    rank = min(len(right), int((s > s[0] * 1e-12).sum()))
    root = s[:rank].sqrt()
    left.zero_()
    left[:, :rank] = u[:, :rank] * root
    right[:rank] = (root[:, None] * v[:rank]).view(rank, *right.shape[1:])


def check_sharing(options: Mapping[str, Sequence[int]], sources: Sequence[WeightSource]) -> None:
    """Raises ValueError where a space varies what no source reads, or lacks what one needs.

    `options` are the space's of num_atoms and rank.
    """
    used = frozenset().union(*(source.dimensions for source in sources))
    if "num_atoms" in used and min(options["num_atoms"]) == 0:
        raise ValueError(
            f"space.num_atoms must be positive, since source has atoms, got {options['num_atoms']}"
        )
    for name, values in options.items():
        if name not in used and tuple(values) != (0,):
            raise ValueError(f"space.{name} must be [0], since no source reads it, got {values}")


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
