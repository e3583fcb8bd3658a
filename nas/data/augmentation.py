"""What is done to images between reading and training, each step a function of its seed.

Letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import cast

import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.data.transforms_factory import create_transform
from torch import Generator, Tensor
from torch.nn import functional as F

from nas.config.sections import DataConfig
from supernet.task import Task

Transform = Callable[[Image.Image], Tensor]  # to (C, H, W) uint8


def train_transform(config: DataConfig) -> Transform:
    """timm's random resized crop, flip and auto-augment policy, without its colour jitter."""
    try:
        transform = create_transform(
            config.img_size,
            is_training=True,
            hflip=0.5 if config.flip else 0.0,
            color_jitter=0.0,
            auto_augment=config.auto_augment or None,
            interpolation="bicubic",
            mean=tuple(config.mean),
            use_prefetcher=True,  # leaves uint8: the device normalises
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"data.auto_augment must be a policy of timm, got {config.auto_augment!r}: {error}"
        ) from error
    return cast(Transform, transform)


def eval_transform(config: DataConfig) -> Transform:
    """The shorter side resized to the image size, then a crop of the centre."""
    transform = create_transform(
        config.img_size, crop_pct=1.0, interpolation="bicubic", use_prefetcher=True
    )
    return cast(Transform, transform)


def translate(images: Tensor, shift: int, generator: Generator) -> Tensor:
    """Moves each image (B, C, H, W) by up to `shift` pixels along each axis; zeros move in."""
    B, _, H, W = images.shape
    device = images.device
    windows = F.pad(images, [shift] * 4).unfold(2, H, 1).unfold(3, W, 1)  # (B, C, top, left, H, W)
    top, left = torch.randint(2 * shift + 1, (2, B), generator=generator, device=device)
    return windows[torch.arange(B, device=device), :, top, left]


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each image (B, C, H, W) left to right with probability one half."""
    B = len(images)
    mirrored = torch.rand(B, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def normalize(pixels: Tensor, config: DataConfig) -> Tensor:
    """Images (B, C, H, W) float32 of pixels in 0..255."""
    mean, std = torch.tensor([config.mean, config.std], device=pixels.device)[..., None, None] * 255
    return pixels.float().sub_(mean).div_(std)


def make_mixup(config: DataConfig, task: Task) -> Mixup | None:
    """Of a task of classes; it smooths the labels that it mixes, in the loss's place."""
    if not config.mixes:
        return None
    return Mixup(  # type: ignore[no-untyped-call]
        config.mixup,
        config.cutmix,
        label_smoothing=task.label_smoothing,
        num_classes=config.num_classes,
    )
