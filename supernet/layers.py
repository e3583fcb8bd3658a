"""Layers whose smaller versions are leading slices of one weight. Sizes are arguments, never state.

Letters: B batch, N tokens, D width in use, H heads, K width of a head, L layers, O largest output
width.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from supernet.sources.source import SharingArch, Sizes, WeightSource

INIT_STD = 0.02  # of position embeddings and the classifier, as in timm


def new_weight(*shape: int, stack: tuple[int, ...] = (), generator: Generator) -> nn.Parameter:
    """(*stack, *shape) from nn.Linear's and nn.Conv2d's distribution: uniform, by the fan in."""
    bound = prod(shape[1:]) ** -0.5
    weight = torch.empty(*stack, *shape)
    return nn.Parameter(weight.uniform_(-bound, bound, generator=generator))


class StackedLinear(nn.Module):
    """One role's linear layers in all blocks: weights from a source, biases (L, O) of their own."""

    def __init__(self, source: WeightSource, *, num_layers: int, out_features: int) -> None:
        super().__init__()
        self.source = source
        self.bias = nn.Parameter(torch.zeros(num_layers, out_features))

    def compose(self, sizes: Sizes, arch: SharingArch) -> list[tuple[Tensor, Tensor]]:
        """Weight (o, i) and bias (o,) of each leading layer, from the (o, i) of each."""
        o, i = max(o for o, _ in sizes), max(i for _, i in sizes)
        # Composed in low precision, weights would differ from the exported ones by 1e-2.
        with torch.autocast(self.bias.device.type, enabled=False):
            weights = self.source.weight(range(len(sizes)), o, i, arch)
        biases = leading_slices(self.bias, [(o,) for o, _ in sizes])
        return list(zip(leading_slices(weights, sizes), biases, strict=True))


class StackedLayerNorm(nn.Module):
    """The layer norms at one place in all blocks, each normalising the width in use."""

    def __init__(self, *, num_layers: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_layers, features))
        self.bias = nn.Parameter(torch.zeros(num_layers, features))

    def compose(self, depth: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias (D,) of each leading layer."""
        sizes = [(width,)] * depth
        return list(
            zip(leading_slices(self.weight, sizes), leading_slices(self.bias, sizes), strict=True)
        )


class PatchEmbed(nn.Module):
    """Images (B, C, H, W) to tokens (B, N, D): a convolution whose first D filters are used."""

    def __init__(
        self, in_chans: int, kernel_size: int, features: int, *, generator: Generator
    ) -> None:
        super().__init__()
        # timm keeps it for patch embeddings.
        self.weight = new_weight(features, in_chans, kernel_size, kernel_size, generator=generator)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, images: Tensor, width: int) -> Tensor:
        stride = self.weight.shape[-1]
        tokens = F.conv2d(images, self.weight[:width], self.bias[:width], stride=stride)
        return tokens.flatten(2).transpose(1, 2)


class PositionEmbed(nn.Module):
    """A learned embedding (1, N, D) for each position, of which the first D features are used."""

    def __init__(self, num_tokens: int, features: int, *, generator: Generator) -> None:
        super().__init__()
        weight = torch.empty(1, num_tokens, features)
        self.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=INIT_STD, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[..., : x.shape[-1]]


class Linear(nn.Module):
    """A linear layer whose input width varies: the classifier."""

    def __init__(self, in_features: int, out_features: int, *, generator: Generator) -> None:
        super().__init__()
        weight = torch.empty(out_features, in_features)
        self.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=INIT_STD, generator=generator))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:, : x.shape[-1]], self.bias)


def attend(x: Tensor, qkv: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor], K: int) -> Tensor:
    """Self-attention of x (B, N, D); weights and biases of q, k, v fused (3HK, D), out (D, HK)."""
    B, N, _ = x.shape
    heads = F.linear(x, *qkv).reshape(B, N, 3, -1, K).permute(2, 0, 3, 1, 4)
    q, k, v = heads.unbind(0)  # each (B, H, N, K)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return F.linear(mixed.transpose(1, 2).reshape(B, N, -1), *out)


class LeadingSlices(torch.autograd.Function):
    """A leading slice of each leading layer of a stacked tensor.

    The gradient is written once. Indexing would write one as large as all layers for each layer.
    """

    @staticmethod
    def forward(ctx: Any, stacked: Tensor, sizes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        ctx.shape = stacked.shape
        return tuple(
            layer[tuple(slice(size) for size in sizes_of_layer)]
            for layer, sizes_of_layer in zip(stacked, sizes, strict=False)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].new_zeros(ctx.shape)
        for layer, part in zip(total, gradients, strict=False):
            layer[tuple(slice(size) for size in part.shape)] = part
        return total, None


def leading_slices(stacked: Tensor, sizes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Views stacked[l, :a, :b, ...] for the (a, b, ...) of each leading layer l."""
    return cast(tuple[Tensor, ...], LeadingSlices.apply(stacked, sizes))


def fuse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose q, k and v stand in one tensor, as the plain model has them."""
    fused = dict(state)
    for name in state:
        if ".attn.q." in name:
            parts = [fused.pop(name.replace(".q.", f".{role}.")) for role in "qkv"]
            fused[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return fused


def unfuse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `fuse` undoes."""
    apart = dict(state)
    for name in state:
        if ".qkv." in name:
            for role, part in zip("qkv", apart.pop(name).chunk(3), strict=True):
                apart[name.replace("qkv", role)] = part
    return apart
