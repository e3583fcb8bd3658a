"""The gradient of one path alone, its norms, and how much a gradient's estimate varies."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import variance

import torch
from torch import Tensor, nn

from search_spaces.space import Arch
from supernet.sampling.paths import Norms, Path, PathGradient
from supernet.supernet import Supernet


@contextmanager
def alone(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, a backward pass finds empty gradients; at the end, those of before are added."""
    before = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    for parameter, _ in before:
        parameter.grad = None
    yield
    both = [(p.grad, old) for p, old in before if p.grad is not None]
    if both:
        torch._foreach_add_([new for new, _ in both], [old for _, old in both])
    for parameter, old in before:
        if parameter.grad is None:
            parameter.grad = old


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@dataclass(frozen=True, eq=False)
class PathNorms:
    """Norms of one path's gradient, on the device until they are read with others."""

    path: Path[Arch]
    names: list[str]  # the choice of each tensor
    values: Tensor  # (1 + len(names),): the whole gradient's, then each tensor's

    def read(self, values: Sequence[float], scale: float) -> PathGradient:
        """The norms from `values`, without the `scale` that the loss was multiplied by."""
        whole, *rest = (value / scale for value in values)
        choices: dict[str, list[float]] = {}
        for name, value in zip(self.names, rest, strict=True):
            choices.setdefault(name, []).append(value)
        return PathGradient(whole, choices)


def path_norms(
    supernet: Supernet[Arch], path: Path[Arch], norms: Norms, whole: Tensor
) -> PathNorms:
    """What `norms` asks for of the gradients that a path left; `whole` is the norm of all."""
    own: dict[str, list[Tensor]] = {} if norms == "path" else supernet.choice_gradients(path.arch)
    names = [name for name, tensors in own.items() for _ in tensors]
    tensors = [tensor for tensors in own.values() for tensor in tensors]
    parts = torch._foreach_norm(tensors) if tensors else ()
    return PathNorms(path, names, torch.stack([whole, *parts]))


class GradientMoments:
    """Mean and variance of a gradient over draws, added one by one.

    The variance is the trace of the covariance matrix. `values` are accumulated in double
    precision, since the variance is a small difference where batches are large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None  # (number of parameters,)
        self.squares: list[float] = []  # squared norm of each draw

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Takes the gradients that a backward pass left; none counts as zeros."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        gradient = torch.cat([part.flatten() for part in parts]).double()
        self.count += 1
        self.total = gradient if self.total is None else self.total.add_(gradient)
        self.squares.append(float(gradient.square().sum()))

    @property
    def mean(self) -> Tensor:
        assert self.total is not None
        return self.total / self.count

    @property
    def variance(self) -> float:
        """Unbiased; needs two draws."""
        excess = sum(self.squares) - self.count * float(self.mean.square().sum())
        return excess / (self.count - 1)

    @property
    def error(self) -> float:
        """Standard error of the variance, from the scatter of the draws' squared norms."""
        return (variance(self.squares) / self.count) ** 0.5


def output_gradient_norms(outputs: Tensor, scales: Tensor) -> Tensor:
    """Norm (B,) of each example's loss gradient at its outputs, from a backward pass.

    `outputs` (B, ...) retain their gradient; `scales` (B,) are what each example's loss was
    multiplied by. For cross entropy it is the distance of the softmax from the target, hard or
    soft.
    """
    assert outputs.grad is not None
    return torch.linalg.vector_norm(outputs.grad.flatten(1).float(), dim=1) / scales
