"""The losses against their definitions."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of_distributions
from torch.testing import assert_close

from supernet.image_tasks import Regression
from supernet.losses import InPlaceDistillation, Labels, cross_entropy, kl_divergence
from tests.helpers.spaces import make_task

B, C = 6, 5
TASK = make_task(num_classes=C)


def some_logits(seed: int) -> Tensor:
    return 3 * torch.randn(B, C, generator=Generator().manual_seed(seed))


STUDENT, TEACHER, HARD_LOSS = some_logits(0), some_logits(1), some_logits(2).square().sum(1)
TARGETS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_that_of_the_teacher_from_the_student(temperature: float) -> None:
    teacher, student = (Categorical(logits=x / temperature) for x in (TEACHER, STUDENT))
    expected = temperature**2 * kl_of_distributions(teacher, student)
    assert_close(kl_divergence(STUDENT, TEACHER, temperature), expected)


def test_the_divergence_of_equal_logits_is_zero() -> None:
    assert_close(kl_divergence(STUDENT, STUDENT + 7.0, 2.0), torch.zeros(B), atol=1e-5, rtol=0)


def test_the_gradient_keeps_its_size_at_high_temperature() -> None:
    """At high temperature it tends to the difference of the centred logits over C (Hinton et al.,
    2015, https://arxiv.org/abs/1503.02531, section 2.1)."""
    student = STUDENT.double().requires_grad_()
    teacher = TEACHER.double()
    (gradient,) = torch.autograd.grad(kl_divergence(student, teacher, 500.0).sum(), student)
    difference = student.detach() - teacher
    assert_close(gradient, (difference - difference.mean(1, keepdim=True)) / C, atol=2e-2, rtol=0)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss = InPlaceDistillation(0.5, 2.0)(TASK, student, HARD_LOSS, teacher).sum()
    of_student, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert of_teacher is None
    assert of_student.abs().sum() > 0


def test_the_divergence_is_computed_in_full_precision() -> None:
    student, teacher = STUDENT.bfloat16(), TEACHER.bfloat16()
    assert torch.equal(kl_divergence(student, teacher), kl_divergence(student.float(), teacher))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels_is_its_definition(label_smoothing: float) -> None:
    log_probabilities = torch.log(torch.softmax(STUDENT, 1))
    hard = -log_probabilities[torch.arange(B), TARGETS]
    expected = (1 - label_smoothing) * hard - label_smoothing * log_probabilities.mean(1)
    assert_close(cross_entropy(STUDENT, TARGETS, label_smoothing), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_targets_is_its_definition(label_smoothing: float) -> None:
    soft = torch.softmax(TEACHER, 1)
    smooth = (1 - label_smoothing) * soft + label_smoothing / C
    expected = -(smooth * torch.log(torch.softmax(STUDENT, 1))).sum(1)
    assert_close(cross_entropy(STUDENT, soft, label_smoothing), expected)


def test_cross_entropy_is_computed_in_full_precision() -> None:
    logits = STUDENT.bfloat16()
    assert torch.equal(cross_entropy(logits, TARGETS), cross_entropy(logits.float(), TARGETS))


def test_labels_teach_every_subnet_alike() -> None:
    for teacher in (None, TEACHER):
        assert torch.equal(Labels()(TASK, STUDENT, HARD_LOSS, teacher), HARD_LOSS)


def test_the_first_subnet_of_a_step_learns_from_labels() -> None:
    assert torch.equal(InPlaceDistillation(0.0, 2.0)(TASK, STUDENT, HARD_LOSS, None), HARD_LOSS)


@pytest.mark.parametrize("hard_weight", [0.0, 0.25, 1.0])
def test_the_others_learn_from_labels_and_teacher_in_proportion(hard_weight: float) -> None:
    loss = InPlaceDistillation(hard_weight, 2.0)(TASK, STUDENT, HARD_LOSS, TEACHER)
    soft_loss = kl_divergence(STUDENT, TEACHER, 2.0)
    assert_close(loss, torch.lerp(soft_loss, HARD_LOSS, hard_weight))


def test_the_soft_loss_is_the_tasks() -> None:
    task = Regression(1, 8, [0.0], [1.0], ["a", "b", "c", "d", "e"])
    loss = InPlaceDistillation(0.0, 1.0)(task, STUDENT, HARD_LOSS, TEACHER)
    assert torch.equal(loss, task.soft_loss(STUDENT, TEACHER, 1.0))


@pytest.mark.parametrize("hard_weight", [-0.1, 1.1, math.nan])
def test_a_weight_outside_of_0_to_1_is_refused(hard_weight: float) -> None:
    with pytest.raises(ValueError, match=r"hard_weight must be .*got"):
        InPlaceDistillation(hard_weight, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature must be .*got"):
        InPlaceDistillation(0.5, temperature)
