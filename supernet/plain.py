"""One subnet as a plain model: timm's VisionTransformer with each block's own sizes."""

from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from search_spaces.vit import ViTArch


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
