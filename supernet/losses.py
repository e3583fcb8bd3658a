"""Losses that teach a subnet from labels or from the supernet's own logits.

Letters: B batch, C classes. Every loss is per image, so that a sampler's weights can be applied.
"""

import math
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


class Teaching(Protocol):
    """What each subnet of a step learns from."""

    needs_teacher: bool

    def __call__(self, logits: Tensor, hard_loss: Tensor, teacher: Tensor | None) -> Tensor:
        """Loss (B,) of logits (B, C), given the loss (B,) on the labels and the teacher's logits.

        The step's first subnet has no teacher.
        """
        ...


class Labels:
    """Every subnet learns from the labels."""

    needs_teacher = False

    def __call__(self, logits: Tensor, hard_loss: Tensor, teacher: Tensor | None) -> Tensor:
        return hard_loss


class InPlaceDistillation:
    """The largest subnet learns from the labels, the others from its logits of the same step.

    Yu & Huang, 2019, https://arxiv.org/abs/1903.05134. A subnet's loss is `hard_weight` times the
    loss on labels plus the rest times the divergence; the paper's is hard_weight 0.
    """

    needs_teacher = True

    def __init__(self, hard_weight: float, temperature: float) -> None:
        if not 0 <= hard_weight <= 1:
            raise ValueError(f"hard_weight must be in 0..1, got {hard_weight}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.hard_weight = hard_weight
        self.temperature = temperature

    def __call__(self, logits: Tensor, hard_loss: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None:
            return hard_loss
        soft_loss = kl_divergence(logits, teacher, self.temperature)
        return self.hard_weight * hard_loss + (1 - self.hard_weight) * soft_loss


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
