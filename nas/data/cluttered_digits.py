"""Handwritten digits among fragments of others, drawn anew for every seed: nothing is downloaded.

Letters: n images, S pixels a side of a scan, H of an image.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

SIDE = 24  # pixels of an image
COUNTS = {"train": 12_000, "val": 2_000, "test": 2_000}  # images of each split
DIGIT, FRAGMENT = (14.0, 20.0), (9.0, 14.0)  # pixels a side of a whole scan, drawn between these
TURN = 15.0  # degrees, to either side
NUM_FRAGMENTS, WINDOW = 2, 4  # parts of other scans in an image, and their side in a scan's pixels


def cluttered(scans: Tensor, generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """`count` images (count, 1, H, H) uint8, with the place among `scans` (n, S, S) of each digit.

    Scans come in turn, so that each is used equally often but for one. A digit is scaled, turned
    and placed; parts of other scans lie beside it and over it.
    """
    chosen = torch.arange(count) % len(scans)
    image = placed(scans[chosen].float(), DIGIT, generator)
    for part in fragments(scans, generator, count):
        image = torch.maximum(image, placed(part, FRAGMENT, generator))
    return image.round().clamp(0, 255).to(torch.uint8)[:, None], chosen


def fragments(scans: Tensor, generator: Generator, count: int) -> Iterator[Tensor]:
    """Scans (count, S, S) of which only a square window is left, `NUM_FRAGMENTS` times."""
    side = torch.arange(scans.shape[-1])
    for _ in range(NUM_FRAGMENTS):
        drawn = scans[torch.randint(len(scans), (count,), generator=generator)].float()
        top, left = torch.randint(len(side) - WINDOW + 1, (2, count, 1), generator=generator)
        rows = (side >= top) & (side < top + WINDOW)
        columns = (side >= left) & (side < left + WINDOW)
        yield drawn * rows[:, :, None] * columns[:, None, :]


def placed(scans: Tensor, sizes: tuple[float, float], generator: Generator) -> Tensor:
    """Each scan (n, S, S) at a random size, angle and place within an image (n, H, H) of zeros."""
    n, (least, most) = len(scans), sizes
    size, turn, x, y = torch.rand(4, n, generator=generator)
    size = least + (most - least) * size
    turn = torch.deg2rad(TURN * (2 * turn - 1))
    # In coordinates of the image, which runs from -1 to 1.
    room = 1 - size / SIDE
    centre = torch.stack([(2 * x - 1) * room, (2 * y - 1) * room], 1)
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, sin, -sin, cos], 1).view(n, 2, 2) * (SIDE / size)[:, None, None]
    theta = torch.cat([rotation, -rotation @ centre[:, :, None]], 2)  # from image to scan
    grid = F.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(scans[:, None], grid, align_corners=False)[:, 0]
