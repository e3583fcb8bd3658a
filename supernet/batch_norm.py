"""Statistics of batch norms: a plain subnet has none until they are estimated on examples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Estimates each norm's statistics as the mean over batches of the model's inputs.

    Leaves the model in eval mode. Without it the shared weights' statistics fit no subnet: Yu &
    Huang, 2019, https://arxiv.org/abs/1903.05134, and Guo et al., 2019,
    https://arxiv.org/abs/1904.00420.
    """
    momenta = [(norm, norm.momentum) for norm in batch_norms(model)]
    model.eval()
    for norm, _ in momenta:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for inputs in batches:
        model(*inputs)
    for norm, momentum in momenta:
        norm.momentum = momentum
        norm.eval()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Lets each norm use the statistics of the batch, as in the supernet; its own are kept."""
    before = [(norm, norm.track_running_stats, norm.training) for norm in batch_norms(model)]
    for norm, _, _ in before:
        norm.track_running_stats = False
        norm.train()
    try:
        yield
    finally:
        for norm, tracks, trains in before:
            norm.track_running_stats = tracks
            norm.train(trains)
