"""The vision transformer supernet: one set of weights for every architecture of a `ViTSpace`.

Letters: B batch, C channels, N tokens, D embed_dim, H heads, K head_dim, M MLP hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from search_spaces.space import Space
from search_spaces.vit import ViTArch, ViTSpace
from supernet.image_tasks import square_images
from supernet.layers import (
    Linear,
    PatchEmbed,
    PositionEmbed,
    StackedLayerNorm,
    StackedLinear,
    attend,
    fuse,
    unfuse,
)
from supernet.sources.source import (
    Slice,
    SourceFactory,
    SourceShape,
    WeightSource,
    below,
    check_sharing,
)
from supernet.supernet import Supernet, space_of
from supernet.task import Task

# Where each role stands in a block of the plain model, which holds q, k and v fused.
PLACES = {
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "o": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
ROLES = tuple(PLACES)
NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")  # of each block
EMBEDDINGS = ("patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed")
# What has embed_dim's width alone.
WIDE = (*EMBEDDINGS, *NORMS, "fc_norm.weight", "fc_norm.bias", "head.weight")
NORM_EPS = 1e-6  # timm's


@dataclass(frozen=True)
class ViTSizes:
    """What every architecture of a run has in common. Sizes of images and patches in pixels."""

    img_size: int
    patch_size: int
    in_chans: int
    num_classes: int
    head_dim: int


class ViTSupernet(Supernet[ViTArch]):
    """Weights of a whole space; every subnet is a leading slice of them.

    `sources` maps each role to a factory of its weight source, called with `shape` and `generator`.
    """

    def __init__(
        self,
        space: ViTSpace,
        fixed: ViTSizes,
        sources: Mapping[str, SourceFactory],
        *,
        generator: Generator,
    ) -> None:
        super().__init__()
        if set(sources) != set(ROLES):
            raise ValueError(f"source must have exactly the roles {ROLES}, got {sorted(sources)}")
        self.fixed = fixed
        depth, width = max(space.depth), max(space.embed_dim)
        self.patch_embed = PatchEmbed(fixed.in_chans, fixed.patch_size, width, generator=generator)
        num_tokens = (fixed.img_size // fixed.patch_size) ** 2
        self.pos_embed = PositionEmbed(num_tokens, width, generator=generator)
        self.norm1 = StackedLayerNorm(num_layers=depth, features=width)
        self.norm2 = StackedLayerNorm(num_layers=depth, features=width)
        self.linears = nn.ModuleDict()
        for role, ((o, i), *_) in role_sizes(space.largest(), fixed.head_dim).items():
            shape = SourceShape(depth, o, i, max(space.num_atoms), max(space.rank))
            source: object = sources[role](shape=shape, generator=generator)
            if not isinstance(source, WeightSource):
                raise ValueError(f"source.{role} must be a weight source, got {source!r}")
            self.linears[role] = StackedLinear(source, num_layers=depth, out_features=o)
        check_sharing(
            {"num_atoms": space.num_atoms, "rank": space.rank},
            [self.linear(role).source for role in ROLES],
        )
        self.fc_norm = StackedLayerNorm(num_layers=1, features=width)
        self.head = Linear(width, fixed.num_classes, generator=generator)

    @classmethod
    def sizes(cls, space: Space[ViTArch], task: Task) -> ViTSizes:
        known, (channels, size) = space_of(cls, ViTSpace, space), square_images(task)
        if size % known.patch_size != 0:
            raise ValueError(
                f"space.patch_size must be a divisor of data.img_size ({size}), "
                f"got {known.patch_size}"
            )
        return ViTSizes(size, known.patch_size, channels, task.num_outputs, known.head_dim)

    @classmethod
    def plain(
        cls, arch: ViTArch, fixed: ViTSizes, *, device: torch.device | str = "cpu"
    ) -> VisionTransformer:
        """timm's model without a class token: tokens are averaged, normalised and classified.

        A head has `head_dim` channels at every width, as in AutoFormer, so the attention's width is
        apart from embed_dim.
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
        blocks = [build_block(arch, layer, fixed.head_dim, device) for layer in range(arch.depth)]
        model.blocks = nn.Sequential(*blocks)
        return model

    @classmethod
    def check_sources(cls, space: Space[ViTArch], sources: Mapping[str, SourceFactory]) -> None:
        """Builds them in the smallest supernet that has the space's atoms and ranks."""
        fixed = ViTSizes(img_size=1, patch_size=1, in_chans=1, num_classes=1, head_dim=1)
        small = replace(
            space_of(cls, ViTSpace, space),
            embed_dim=(1,),
            depth=(1,),
            num_heads=(1,),
            mlp_ratio=(1,),
            head_dim=1,
        )
        try:
            cls(small, fixed, sources, generator=Generator())
        except TypeError as error:
            raise ValueError(f"source: {error}") from error

    def linear(self, role: str) -> StackedLinear:
        return cast(StackedLinear, self.linears[role])

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's rule (vectors do not decay) misses, since vectors are stacked."""
        vectors = (".bias", ".coefficients", "norm1.weight", "norm2.weight", "norm.weight")
        names = {name for name, _ in self.named_parameters() if name.endswith(vectors)}
        return names | {"pos_embed.weight"}

    def forward(self, images: Tensor, arch: ViTArch) -> Tensor:
        """Outputs (B, num_classes) of one subnet for images (B, C, H, W)."""
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

    @torch.no_grad()
    def factorise(self, arch: ViTArch) -> dict[str, Tensor]:
        """Copies of what a subnet must store: sources' factors under `role.`, the rest as in timm.

        A role whose factors outweigh its merged weights is stored merged.
        """
        tensors = fuse({name: part.value() for name, part in self.unshared(arch).items()})
        for role, sizes in role_sizes(arch, self.fixed.head_dim).items():
            source = self.linear(role).source
            factors = source.factors(sizes, arch)
            if sum(map(torch.numel, factors.values())) > sum(o * i for o, i in sizes):
                merged = [source.merge(factors, layer, o, i) for layer, (o, i) in enumerate(sizes)]
                factors = {f"layers.{layer}.weight": weight for layer, weight in enumerate(merged)}
            tensors |= {f"{role}.{name}": tensor for name, tensor in factors.items()}
        return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}

    @torch.no_grad()
    def merge(self, tensors: Mapping[str, Tensor], arch: ViTArch) -> dict[str, Tensor]:
        state = {name: t for name, t in tensors.items() if name.split(".")[0] not in ROLES}
        for role, sizes in role_sizes(arch, self.fixed.head_dim).items():
            source, factors = self.linear(role).source, below(tensors, f"{role}.")
            for layer, (o, i) in enumerate(sizes):
                merged = factors.get(f"layers.{layer}.weight")
                weight = source.merge(factors, layer, o, i) if merged is None else merged
                state[f"blocks.{layer}.{PLACES[role]}.weight"] = weight
        return {name: tensor.contiguous() for name, tensor in fuse(state).items()}

    @torch.no_grad()
    def load_plain(self, state: Mapping[str, Tensor], arch: ViTArch) -> None:
        self.check_plain(state, arch)
        state = unfuse(state)
        for name, part in self.unshared(arch).items():
            part.value().copy_(state[name])
        for role in ROLES:
            names = [f"blocks.{layer}.{PLACES[role]}.weight" for layer in range(arch.depth)]
            self.linear(role).source.fit([state[name] for name in names], arch)

    def choice_gradients(self, arch: ViTArch) -> dict[str, list[Tensor]]:
        """Of `num_heads` and `mlp_ratio` what they size, of `depth` all that its last block adds.

        A layer owns its biases, norms, adapters, coefficients and weights that no layer shares.
        Shared atoms count for `num_atoms` alone: their gradients are sums over layers.
        """
        sizes = role_sizes(arch, self.fixed.head_dim)
        parts = {role: self.linear(role).source.gradients(sizes[role], arch) for role in ROLES}
        blocks = slice(arch.depth), slice(arch.embed_dim)
        every_block = {name: Slice(self.get_parameter(name), blocks) for name in NORMS}
        slices = self.unshared(arch) | every_block
        unshared = {name: part.gradient() for name, part in slices.items()}

        def named(*names: str) -> list[Tensor]:
            return [gradient for name in names for gradient in unshared[name]]

        gradients = {
            "embed_dim": named(*WIDE),
            "depth": [],
            "num_atoms": [shared for role in ROLES for shared in parts[role]["shared"]],
        }
        for layer in range(arch.depth):
            block = f"blocks.{layer}"
            adapters = {role: parts[role][f"adapters.{layer}"] for role in ROLES}
            own = {role: parts[role][f"layers.{layer}"] + adapters[role] for role in ROLES}
            bias = {role: unshared[f"{block}.{PLACES[role]}.bias"] for role in ROLES}
            heads = own["q"] + own["k"] + own["v"] + own["o"]
            gradients[f"{block}.num_heads"] = bias["q"] + bias["k"] + bias["v"] + heads
            gradients[f"{block}.mlp_ratio"] = bias["fc1"] + own["fc1"] + own["fc2"]
            gradients[f"{block}.rank"] = [a for role in ROLES for a in adapters[role]]
            norms = named(*(f"{block}.{name}" for name in NORMS))
            linears = [g for role in ROLES for g in bias[role] + own[role]]
            gradients["depth"] = norms + linears  # of the last one in the end
        return gradients

    def unshared(self, arch: ViTArch) -> dict[str, Slice]:
        """Everything but the weights of the roles, by the plain model's names, unfused."""
        width, every = slice(arch.embed_dim), slice(None)
        found = {
            "patch_embed.proj.weight": Slice(self.patch_embed.weight, (width,)),
            "patch_embed.proj.bias": Slice(self.patch_embed.bias, (width,)),
            "pos_embed": Slice(self.pos_embed.weight, (every, every, width)),
            "fc_norm.weight": Slice(self.fc_norm.weight, (0, width)),
            "fc_norm.bias": Slice(self.fc_norm.bias, (0, width)),
            "head.weight": Slice(self.head.weight, (every, width)),
            "head.bias": Slice(self.head.bias, ()),
        }
        sizes = role_sizes(arch, self.fixed.head_dim)
        for layer in range(arch.depth):
            for name in NORMS:
                found[f"blocks.{layer}.{name}"] = Slice(self.get_parameter(name), (layer, width))
            for role, place in PLACES.items():
                used = slice(sizes[role][layer][0])
                found[f"blocks.{layer}.{place}.bias"] = Slice(self.linear(role).bias, (layer, used))
        return found


def role_sizes(arch: ViTArch, head_dim: int) -> dict[str, list[tuple[int, int]]]:
    """(out, in) of each layer's weight, by role."""
    width = arch.embed_dim
    heads = [num_heads * head_dim for num_heads in arch.num_heads]
    into, back = [(h, width) for h in heads], [(width, h) for h in heads]
    fc1, fc2 = [(m, width) for m in arch.mlp_hidden], [(width, m) for m in arch.mlp_hidden]
    return dict(zip(ROLES, (into, into, into, back, fc1, fc2), strict=True))


def build_block(arch: ViTArch, layer: int, head_dim: int, device: torch.device | str) -> Block:
    width, num_heads, mlp_ratio = arch.embed_dim, arch.num_heads[layer], arch.mlp_ratio[layer]
    block = Block(width, num_heads=1, mlp_ratio=mlp_ratio, qkv_bias=True, device=device)
    # Block offers no head_dim apart from embed_dim / num_heads; its attention layer does.
    block.attn = Attention(
        width, num_heads=num_heads, attn_head_dim=head_dim, qkv_bias=True, device=device
    )
    return block
