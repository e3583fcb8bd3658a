"""Low-rank weights of each layer's own."""

from collections.abc import Mapping, Sequence

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

    def slices(self, sizes: Sizes, arch: SharingArch) -> dict[str, Slice]:
        found = {}
        for layer, (o, i) in enumerate(sizes):
            r, name = slice(arch.rank[layer]), f"adapters.{layer}"
            found[f"{name}.a"] = Slice(self.a, (layer, r, slice(i)))
            found[f"{name}.b"] = Slice(self.b, (layer, slice(o), r), self.scale)
        return found

    def merge(self, factors: Mapping[str, Tensor], layer: int, o: int, i: int) -> Tensor:
        a, b = factors[f"adapters.{layer}.a"], factors[f"adapters.{layer}.b"]
        return torch.bmm(b[None], a[None])[0]

    def fit(self, weights: Sequence[Tensor], arch: SharingArch) -> None:
        for layer, weight in enumerate(weights):
            (o, i), r = weight.shape, arch.rank[layer]
            fit_product(self.b[layer, :o, :r], self.a[layer, :r, :i], weight / self.scale)
