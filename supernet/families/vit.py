"""The vision transformer supernet: one set of weights for every architecture of a `ViTSpace`.

Letters: B batch, C channels, N tokens, D embed_dim, H heads, K head_dim, M MLP hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from search_spaces.vit import ViTArch, ViTSpace
from supernet.layers import (
    Linear,
    PatchEmbed,
    PositionEmbed,
    StackedLayerNorm,
    StackedLinear,
    attend,
)
from supernet.sources.source import SourceFactory, SourceShape, WeightSource, below, gradient, merge
from supernet.supernet import Supernet

ROLES = ("q", "k", "v", "o", "fc1", "fc2")
NORM_EPS = 1e-6  # timm's


@dataclass(frozen=True)
class FixedSizes:
    """What every architecture of a run has in common. Sizes of images and patches in pixels."""

    img_size: int
    patch_size: int
    in_chans: int
    num_classes: int
    head_dim: int

    @property
    def num_tokens(self) -> int:
        return (self.img_size // self.patch_size) ** 2


class ViTSupernet(Supernet):
    """Weights of a whole space; every subnet is a leading slice of them.

    `sources` maps each role to a factory of its weight source, called with `shape` and `generator`.
    """

    def __init__(
        self,
        space: ViTSpace,
        fixed: FixedSizes,
        sources: Mapping[str, SourceFactory],
        *,
        generator: Generator,
    ) -> None:
        super().__init__()
        if set(sources) != set(ROLES):
            raise ValueError(f"source must have exactly the roles {ROLES}, got {sorted(sources)}")
        self.fixed = fixed
        depth, width = max(space.depth), max(space.embed_dim)
        self.patch_embed = PatchEmbed(
            in_chans=fixed.in_chans,
            patch_size=fixed.patch_size,
            features=width,
            generator=generator,
        )
        self.pos_embed = PositionEmbed(
            num_tokens=fixed.num_tokens, features=width, generator=generator
        )
        self.norm1 = StackedLayerNorm(num_layers=depth, features=width)
        self.norm2 = StackedLayerNorm(num_layers=depth, features=width)
        self.linears = nn.ModuleDict()
        for role, ((o, i), *_) in role_sizes(space.largest(), fixed.head_dim).items():
            shape = SourceShape(depth, o, i, max(space.num_atoms), max(space.rank))
            source = sources[role](shape=shape, generator=generator)
            self.linears[role] = StackedLinear(source, num_layers=depth, out_features=o)
        check_sharing(space, [self.linear(role).source for role in ROLES])
        self.fc_norm = StackedLayerNorm(num_layers=1, features=width)
        self.head = Linear(width, fixed.num_classes, generator=generator)

    def linear(self, role: str) -> StackedLinear:
        return cast(StackedLinear, self.linears[role])

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's rule (vectors do not decay) misses, since vectors are stacked."""
        vectors = (".bias", ".coefficients", "norm1.weight", "norm2.weight", "norm.weight")
        names = {name for name, _ in self.named_parameters() if name.endswith(vectors)}
        return names | {"pos_embed.weight"}

    def forward(self, images: Tensor, arch: ViTArch) -> Tensor:
        """Logits (B, num_classes) of one subnet for images (B, C, H, W)."""
        width, depth = arch.embed_dim, arch.depth
        norm1, norm2 = self.norm1.compose(depth, width), self.norm2.compose(depth, width)
        linears = self.compose(arch)
        x = self.pos_embed(self.patch_embed(images, width))  # (B, N, D)
        for layer in range(depth):
            q, k, v, o, fc1, fc2 = (linears[role][layer] for role in ROLES)
            qkv = torch.cat([q[0], k[0], v[0]]), torch.cat([q[1], k[1], v[1]])
            normed = F.layer_norm(x, (width,), *norm1[layer], NORM_EPS)
            x = x + attend(normed, qkv, o, self.fixed.head_dim)
            normed = F.layer_norm(x, (width,), *norm2[layer], NORM_EPS)
            x = x + F.linear(F.gelu(F.linear(normed, *fc1)), *fc2)
        (norm,) = self.fc_norm.compose(1, width)
        return self.head(F.layer_norm(x.mean(1), (width,), *norm, NORM_EPS))

    def compose(self, arch: ViTArch) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Weight and bias of every layer in use, by role."""
        sizes = role_sizes(arch, self.fixed.head_dim)
        return {role: self.linear(role).compose(sizes[role], arch) for role in ROLES}

    def build(
        self, arch: ViTArch, *, device: torch.device | str | None = None
    ) -> VisionTransformer:
        return build(arch, self.fixed, device=device)

    @torch.no_grad()
    def factorise(self, arch: ViTArch) -> dict[str, Tensor]:
        """Copies of what a subnet must store: sources' factors under `role.`, the rest as in timm.

        A role whose factors outweigh its merged weights is stored merged.
        """
        tensors = self.unshared(arch)
        for role, sizes in role_sizes(arch, self.fixed.head_dim).items():
            factors = self.linear(role).source.factors(sizes, arch)
            if sum(map(torch.numel, factors.values())) > sum(o * i for o, i in sizes):
                merged = [merge(factors, layer, o, i) for layer, (o, i) in enumerate(sizes)]
                factors = {f"layers.{layer}.weight": weight for layer, weight in enumerate(merged)}
            tensors |= {f"{role}.{name}": tensor for name, tensor in factors.items()}
        return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}

    def merge(self, tensors: Mapping[str, Tensor], arch: ViTArch) -> dict[str, Tensor]:
        return merge_subnet(tensors, arch, self.fixed)

    def own_gradients(self, arch: ViTArch) -> dict[str, list[Tensor]]:
        """Of `num_heads` and `mlp_ratio` what they size, of `depth` all that its last block adds.

        A layer owns its biases, norms, adapters, coefficients and weights that no layer shares.
        Shared atoms count for `num_atoms` alone: their gradients are sums over layers.
        """
        gradients = {"embed_dim": self.width_gradients(arch)}
        gradients["depth"] = self.block_gradients(arch.depth - 1, arch)
        sizes = role_sizes(arch, self.fixed.head_dim)
        gradients["num_atoms"] = []
        for role in ROLES:
            box = max(o for o, _ in sizes[role]), max(i for _, i in sizes[role])
            gradients["num_atoms"] += self.linear(role).source.shared_gradients(*box, arch)
        for layer in range(arch.depth):
            own = {role: self.role_gradients(role, layer, arch) for role in ROLES}
            bias = {role: self.bias_gradient(role, layer, arch) for role in ROLES}
            heads = own["q"] + own["k"] + own["v"] + own["o"]
            gradients[f"blocks.{layer}.num_heads"] = bias["q"] + bias["k"] + bias["v"] + heads
            gradients[f"blocks.{layer}.mlp_ratio"] = bias["fc1"] + own["fc1"] + own["fc2"]
            gradients[f"blocks.{layer}.rank"] = [
                adapter
                for role in ROLES
                for adapter in self.linear(role).source.rank_gradients(
                    layer, *sizes[role][layer], arch
                )
            ]
        return gradients

    def width_gradients(self, arch: ViTArch) -> list[Tensor]:
        """Of what has embed_dim's width alone: embeddings, norms and the classifier's weight."""
        width, blocks = slice(arch.embed_dim), slice(arch.depth)
        every = slice(None)
        return [
            *gradient(self.patch_embed.weight, width),
            *gradient(self.patch_embed.bias, width),
            *gradient(self.pos_embed.weight, every, every, width),
            *self.norm_gradients(blocks, width),
            *gradient(self.fc_norm.weight, 0, width),
            *gradient(self.fc_norm.bias, 0, width),
            *gradient(self.head.weight, every, width),
        ]

    def norm_gradients(self, layers: int | slice, width: slice) -> list[Tensor]:
        return [
            *gradient(self.norm1.weight, layers, width),
            *gradient(self.norm1.bias, layers, width),
            *gradient(self.norm2.weight, layers, width),
            *gradient(self.norm2.bias, layers, width),
        ]

    def block_gradients(self, layer: int, arch: ViTArch) -> list[Tensor]:
        """Of everything that one block owns."""
        found = self.norm_gradients(layer, slice(arch.embed_dim))
        for role in ROLES:
            found += self.bias_gradient(role, layer, arch) + self.role_gradients(role, layer, arch)
        return found

    def bias_gradient(self, role: str, layer: int, arch: ViTArch) -> list[Tensor]:
        o, _ = role_sizes(arch, self.fixed.head_dim)[role][layer]
        return gradient(self.linear(role).bias, layer, slice(o))

    def role_gradients(self, role: str, layer: int, arch: ViTArch) -> list[Tensor]:
        """Of the weights that one layer of a role does not share."""
        o, i = role_sizes(arch, self.fixed.head_dim)[role][layer]
        return self.linear(role).source.own_gradients(layer, o, i, arch)

    def unshared(self, arch: ViTArch) -> dict[str, Tensor]:
        """Everything but the weights of the roles, by the plain model's names."""
        width = arch.embed_dim
        tensors = {
            "patch_embed.proj.weight": self.patch_embed.weight[:width],
            "patch_embed.proj.bias": self.patch_embed.bias[:width],
            "pos_embed": self.pos_embed.weight[..., :width],
            "fc_norm.weight": self.fc_norm.weight[0, :width],
            "fc_norm.bias": self.fc_norm.bias[0, :width],
            "head.weight": self.head.weight[:, :width],
            "head.bias": self.head.bias,
        }
        sizes = role_sizes(arch, self.fixed.head_dim)
        for layer in range(arch.depth):
            bias = {r: self.linear(r).bias[layer, : sizes[r][layer][0]] for r in ROLES}
            block = {
                "norm1.weight": self.norm1.weight[layer, :width],
                "norm1.bias": self.norm1.bias[layer, :width],
                "attn.qkv.bias": torch.cat([bias["q"], bias["k"], bias["v"]]),
                "attn.proj.bias": bias["o"],
                "norm2.weight": self.norm2.weight[layer, :width],
                "norm2.bias": self.norm2.bias[layer, :width],
                "mlp.fc1.bias": bias["fc1"],
                "mlp.fc2.bias": bias["fc2"],
            }
            tensors |= {f"blocks.{layer}.{name}": tensor for name, tensor in block.items()}
        return tensors


def role_sizes(arch: ViTArch, head_dim: int) -> dict[str, list[tuple[int, int]]]:
    """(out, in) of each layer's weight, by role."""
    width = arch.embed_dim
    heads = [num_heads * head_dim for num_heads in arch.num_heads]
    into, back = [(h, width) for h in heads], [(width, h) for h in heads]
    fc1, fc2 = [(m, width) for m in arch.mlp_hidden], [(width, m) for m in arch.mlp_hidden]
    return dict(zip(ROLES, (into, into, into, back, fc1, fc2), strict=True))


@torch.no_grad()
def merge_subnet(
    tensors: Mapping[str, Tensor], arch: ViTArch, fixed: FixedSizes
) -> dict[str, Tensor]:
    """The state dict of the plain model from what `ViTSupernet.factorise` returned."""
    sizes = role_sizes(arch, fixed.head_dim)
    state = {name: t for name, t in tensors.items() if name.split(".")[0] not in ROLES}
    for layer in range(arch.depth):
        weights = {
            role: merge(below(tensors, f"{role}."), layer, *sizes[role][layer]) for role in ROLES
        }
        qkv = torch.cat([weights["q"], weights["k"], weights["v"]])
        state[f"blocks.{layer}.attn.qkv.weight"] = qkv
        state[f"blocks.{layer}.attn.proj.weight"] = weights["o"]
        state[f"blocks.{layer}.mlp.fc1.weight"] = weights["fc1"]
        state[f"blocks.{layer}.mlp.fc2.weight"] = weights["fc2"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def check_sharing(space: ViTSpace, sources: Sequence[WeightSource]) -> None:
    """Raises ValueError where the space varies what no source reads, or lacks what one needs."""
    used = frozenset().union(*(source.dimensions for source in sources))
    if "num_atoms" in used and min(space.num_atoms) == 0:
        raise ValueError(
            f"space.num_atoms must be positive, since source has atoms, got {space.num_atoms}"
        )
    for name in ("num_atoms", "rank"):
        if name not in used and (options := tuple(getattr(space, name))) != (0,):
            raise ValueError(f"space.{name} must be [0], since no source reads it, got {options}")


def build(
    arch: ViTArch, fixed: FixedSizes, *, device: torch.device | str | None = None
) -> VisionTransformer:
    """The plain model of an architecture, untrained: images (B, C, H, W) to logits (B, classes).

    No class token: tokens are averaged, normalised and classified. A head has `head_dim` channels
    at every width, as in AutoFormer, so the attention's width is apart from embed_dim. On the
    device "meta" nothing is allocated.
    """
    model = VisionTransformer(
        img_size=fixed.img_size,
        patch_size=fixed.patch_size,
        in_chans=fixed.in_chans,
        num_classes=fixed.num_classes,
        embed_dim=arch.embed_dim,
        depth=0,
        num_heads=1,
        class_token=False,
        global_pool="avg",
        device=device,
    )
    model.blocks = nn.Sequential(
        *(build_block(arch, layer, fixed.head_dim, device) for layer in range(arch.depth))
    )
    return model


def build_block(
    arch: ViTArch, layer: int, head_dim: int, device: torch.device | str | None
) -> Block:
    block = Block(
        arch.embed_dim, num_heads=1, mlp_ratio=arch.mlp_ratio[layer], qkv_bias=True, device=device
    )
    # Block offers no head_dim apart from embed_dim / num_heads; its attention layer does.
    block.attn = Attention(
        arch.embed_dim,
        num_heads=arch.num_heads[layer],
        attn_head_dim=head_dim,
        qkv_bias=True,
        device=device,
    )
    return block
