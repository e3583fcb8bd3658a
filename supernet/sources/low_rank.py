"""Low-rank weights of each layer's own."""

import torch
from torch import Generator, Tensor, nn

from supernet.sources.source import SharingArch, Sizes, SourceShape, WeightSource, gradient


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
