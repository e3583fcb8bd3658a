"""What each path of a step learns from: the batch that all of them share, or one of its own."""

from typing import NamedTuple

import torch
from torch import Tensor

from search_spaces.space import Arch
from supernet.sampling.paths import Path
from supernet.task import Batch


class Lesson(NamedTuple):
    """A path and its examples."""

    path: Path[Arch]
    batch: Batch
    weights: Tensor  # (B,), what the loss of each example is multiplied by
    teacher: Tensor | None  # outputs (B, ...) that teach, None for those of the path before


def order_of(num_steps: int, num_parts: int, size: int) -> Tensor:
    """The places in an epoch's draw that its steps go through, (num_steps * num_parts * size,).

    A step has a batch for each part. Every part goes through all batches, and begins a fair share
    of the epoch after the one before, so that none comes upon what another has just learned.
    """
    begins = torch.arange(num_parts) * num_steps // num_parts
    batches = (torch.arange(num_steps)[:, None] + begins) % num_steps  # (num_steps, num_parts)
    return (batches[..., None] * size + torch.arange(size)).flatten()


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """A batch's parts of equal size, in order."""
    inputs = zip(*(one.chunk(num_parts) for one in batch.inputs), strict=True)
    rest = (batch.targets.chunk(num_parts), batch.indices.chunk(num_parts))
    return [Batch(*one) for one in zip(inputs, *rest, strict=True)]
