"""Losses that teach a subnet from the targets or from the supernet's own outputs.

Letters: B batch, C classes. Every loss is per example, so that a sampler's weights can be applied.
"""

import math
from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional as F

from supernet.task import Task


class Teaching(Protocol):
    """What each subnet of a step learns from."""

    # None, the largest subnet of the same step, or that of the weights that training began with.
    teacher: Literal["none", "step", "init"]

    def __call__(
        self, task: Task, outputs: Tensor, hard_loss: Tensor, teacher: Tensor | None
    ) -> Tensor:
        """Loss (B,), given the loss (B,) on the targets and the teacher's outputs.

        The step's first subnet has none where the teacher is of the step.
        """


class Labels:
    """Every subnet learns from the targets."""

    teacher: Literal["none", "step", "init"] = "none"

    def __call__(
        self, task: Task, outputs: Tensor, hard_loss: Tensor, teacher: Tensor | None
    ) -> Tensor:
        return hard_loss


class InPlaceDistillation:
    """The largest subnet learns from the targets, the others from its outputs of the same step.

    Yu & Huang, 2019, https://arxiv.org/abs/1903.05134. A subnet's loss is `hard_weight` times the
    loss on targets plus the rest times the task's soft loss; the paper's is hard_weight 0.
    """

    teacher: Literal["none", "step", "init"] = "step"

    def __init__(self, hard_weight: float, temperature: float) -> None:
        if not 0 <= hard_weight <= 1:
            raise ValueError(f"hard_weight must be in 0..1, got {hard_weight}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.hard_weight = hard_weight
        self.temperature = temperature

    def __call__(
        self, task: Task, outputs: Tensor, hard_loss: Tensor, teacher: Tensor | None
    ) -> Tensor:
        if teacher is None:
            return hard_loss
        soft_loss = task.soft_loss(outputs, teacher, self.temperature)
        return self.hard_weight * hard_loss + (1 - self.hard_weight) * soft_loss


class FrozenTeacher(InPlaceDistillation):
    """Every subnet learns from the outputs of the largest one of the run in train.init, frozen.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531; the loss is as of in-place distillation.
    """

    teacher: Literal["none", "step", "init"] = "init"


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy (B,) of logits (B, C) with class indices (B,) or probabilities (B, C)."""
    return F.cross_entropy(
        logits.float(), targets, label_smoothing=label_smoothing, reduction="none"
    )


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) per image, times temperature squared to keep the gradient's size.

    Logits are (B, C); returns (B,). No gradient reaches the teacher.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)
    return divergence * temperature**2
