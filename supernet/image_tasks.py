"""Tasks on images: classification and regression.

Letters: B batch, C classes or channels, H pixels a side, T targets of an example.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from search_spaces.space import check_positive
from supernet.losses import cross_entropy, kl_divergence
from supernet.task import Metric, Task


@dataclass(frozen=True)
class ImageTask:
    """What tasks on images have in common: one square image an example, normalised by channel."""

    input_names: ClassVar = ("images",)

    in_chans: int
    img_size: int  # pixels
    mean: Sequence[float]  # per channel, of pixels in 0..1
    std: Sequence[float]

    def __post_init__(self) -> None:
        check_positive("data.in_chans", self.in_chans, int)
        check_positive("data.img_size", self.img_size, int)
        # Lists from a config file would make the task unhashable.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        shape = batch_size, self.in_chans, self.img_size, self.img_size
        return (torch.randn(shape, generator=Generator().manual_seed(0)),)

    def image_usage(self, reading: str) -> str:
        """How to call a model; `reading` is the line that reads its outputs."""
        C, H = self.in_chans, self.img_size
        return f"""\
Images are {C} x {H} x {H}, scaled to 0..1 and then normalised. Of images of other sizes the shorter
side was resized with bicubic interpolation, then the centre cropped.

```python
images = torch.rand(1, {C}, {H}, {H})  # yours, in 0..1
mean, std = torch.tensor({list(self.mean)}), torch.tensor({list(self.std)})
outputs = model((images - mean[:, None, None]) / std[:, None, None])
{reading}
```"""

    def facts(self) -> dict[str, object]:
        values = asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values}


@dataclass(frozen=True)
class Classification(ImageTask):
    """Images to the logits of classes, by cross entropy; the score is the top-1 accuracy.

    Targets are class indices (B,), or probabilities (B, C) where training mixes images.
    """

    metric: ClassVar = Metric("top1", "top-1", higher_is_better=True, is_fraction=True)
    output_name: ClassVar = "logits"

    num_classes: int
    label_smoothing: float = 0.0  # of class indices; mixed targets have theirs already
    classes: tuple[str, ...] = ()  # names, once fitted

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_positive("data.num_classes", self.num_classes, int)
        except ValueError as error:
            raise ValueError(f"{error}; numbers as targets go with task=regression") from error
        smoothing = self.label_smoothing
        if not 0 <= smoothing < 1:
            raise ValueError(f"task.label_smoothing must be in [0, 1), got {smoothing}")

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def fitted(self, targets: Tensor, names: tuple[str, ...]) -> Self:
        if len(names) != self.num_classes:
            raise ValueError(
                f"data.num_classes must be {len(names)}, the number of classes in the data, "
                f"got {self.num_classes}"
            )
        return replace(self, classes=names)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
        return cross_entropy(outputs, targets, smoothing)

    def soft_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(outputs, teacher, temperature)

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()

    def interval(
        self, mean: float, variance: float, num_examples: int, confidence: float
    ) -> tuple[float, float]:
        """Binomial interval (Wilson, 1927); how hits vary is known from their mean."""
        n, z = num_examples, NormalDist().inv_cdf(0.5 + confidence / 2)
        centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (mean * (1 - mean) / n + (z / (2 * n)) ** 2) ** 0.5
        return max(0.0, centre - half), min(1.0, centre + half)

    def usage(self) -> str:
        return self.image_usage(
            "classes = outputs.argmax(1)  # places in task.classes of card.json"
        )


@dataclass(frozen=True)
class Regression(ImageTask):
    """Images to numbers, by the Huber loss of standardised targets.

    The score is the mean absolute error in the targets' own units, averaged over columns. Targets
    are (B, T); the network's outputs are in standard deviations of the training targets.
    """

    metric: ClassVar = Metric(
        "mae", "mean absolute error", higher_is_better=False, is_fraction=False
    )
    output_name: ClassVar = "outputs"
    label_smoothing: ClassVar = None

    columns: Sequence[str]  # names of the T targets
    target_mean: tuple[float, ...] = ()  # of each column, once fitted
    target_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise ValueError("data.columns must name the targets of a regression, got none")
        # Until it is fitted, targets count as standardised.
        object.__setattr__(self, "target_mean", self.target_mean or (0.0,) * len(self.columns))
        object.__setattr__(self, "target_std", self.target_std or (1.0,) * len(self.columns))

    @property
    def num_outputs(self) -> int:
        return len(self.columns)

    def fitted(self, targets: Tensor, names: tuple[str, ...]) -> Self:
        if names != self.columns:
            raise ValueError(f"data.columns must be {list(names)}, got {list(self.columns)}")
        mean, std = targets.double().mean(0), targets.double().std(0, correction=0)
        if not (std > 0).all():  # nor is that of what is no number
            raise ValueError(
                "data.columns must be finite and vary over the training examples, got standard "
                f"deviations of {dict(zip(names, std.tolist(), strict=True))}"
            )
        return replace(self, target_mean=tuple(mean.tolist()), target_std=tuple(std.tolist()))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, std = targets.new_tensor(self.target_mean), targets.new_tensor(self.target_std)
        return huber(outputs, (targets - mean) / std)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, targets)

    def soft_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        if temperature != 1:
            raise ValueError(f"temperature must be 1 for a regression, got {temperature}")
        return huber(outputs, teacher.detach().float())

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, std = targets.new_tensor(self.target_mean), targets.new_tensor(self.target_std)
        return (outputs.float() * std + mean - targets).abs().mean(1)

    def interval(
        self, mean: float, variance: float, num_examples: int, confidence: float
    ) -> tuple[float, float]:
        """That of a normal distribution; no error is below 0."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * (variance / num_examples) ** 0.5
        return max(0.0, mean - half), mean + half

    def usage(self) -> str:
        mean, std = list(self.target_mean), list(self.target_std)
        reading = f"values = outputs * torch.tensor({std}) + torch.tensor({mean})"
        return self.image_usage(f"{reading}  # of task.columns of card.json")


def square_images(task: Task) -> tuple[int, int]:
    """Channels and pixels a side of a task's images; raises ValueError if it has other inputs."""
    shapes = [tuple(example.shape[1:]) for example in task.example_inputs(1)]
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][1] != shapes[0][2]:
        raise ValueError(f"task must have one square image an example, got inputs of {shapes}")
    channels, size, _ = shapes[0]
    return channels, size


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over T of half the square up to an error of 1, then linear (Huber, 1964): (B,)."""
    return F.smooth_l1_loss(outputs.float(), targets, reduction="none").mean(1)
