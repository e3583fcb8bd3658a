"""What is learned: the inputs of a batch, the loss of each example, and the metric.

A supernet, a sampler and a stage know no more of a task than this interface.
Letters: B batch, n examples.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from torch import Tensor


class Batch(NamedTuple):
    """Examples of one split on the device."""

    inputs: tuple[Tensor, ...]  # what a network is called with, each (B, ...)
    targets: Tensor  # (B, ...)
    indices: Tensor  # (B,) int64, positions within the split


@dataclass(frozen=True)
class Metric:
    """What a score is of: its key in files, its name in words, its direction and its unit."""

    name: str  # top1, mae
    words: str  # top-1, mean absolute error
    higher_is_better: bool
    is_fraction: bool  # shown in percent

    def worth(self, value: float) -> float:
        """The value, turned so that higher is better."""
        return value if self.higher_is_better else -value

    def text(self, value: float) -> str:
        return f"{value:.2%}" if self.is_fraction else f"{value:.4g}"


class Task(Protocol):
    """A task is a frozen value; `fitted` makes it fit a data set."""

    @property
    def metric(self) -> Metric: ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the network's inputs in exported files."""

    @property
    def output_name(self) -> str: ...

    @property
    def num_outputs(self) -> int:
        """Of a network for one example."""

    @property
    def label_smoothing(self) -> float | None:
        """Of class targets in training; None where targets are no classes."""

    def fitted(self, targets: Tensor, names: tuple[str, ...]) -> Self:
        """The task for a data set with these training targets (n, ...); `names` are of its classes
        or its target columns. Raises ValueError that names the key where they do not fit."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss (B,) of each example, float32: what an evaluation reports."""

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same with what regularises training, such as label smoothing."""

    def soft_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Loss (B,) on a teacher's outputs, to which no gradient goes."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric (B,) of each example, whose mean over a split is the score."""

    def interval(
        self, mean: float, variance: float, num_examples: int, confidence: float
    ) -> tuple[float, float]:
        """Of the mean of `values` over examples like these, whose values vary by `variance`."""

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Made-up inputs on the CPU, the same at every call: for timing, FLOPs and export."""

    def usage(self) -> str:
        """Markdown for who uses an exported model: what goes in and how to read what comes out.

        Code in it goes on from `import torch` and the loaded `model`, and binds `outputs`.
        """

    def facts(self) -> dict[str, object]:
        """The same for programs, as plain values: preprocessing, names of classes or targets."""
