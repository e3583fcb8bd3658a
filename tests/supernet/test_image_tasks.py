"""Classification and regression of images keep the contract of tasks; then what each adds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from supernet.image_tasks import Classification, Regression, square_images
from supernet.task import Metric
from tests.contracts.task import TaskContract
from tests.helpers.spaces import make_task

DIGITS = Classification(1, 8, [0.3], [0.4], 5, 0.1)
AGES = Regression(3, 6, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], ["age", "weight"])
CLASSES = torch.tensor([0, 4, 2, 2, 1, 3, 0, 1])
NUMBERS = torch.tensor(
    [[30.0, 70.0], [41.0, 61.5], [18.0, 80.0], [77.0, 65.0], [52.0, 90.0], [33.0, 55.0]]
)


class TestClassification(TaskContract):
    task, names, targets = DIGITS, ("zero", "one", "two", "three", "four"), CLASSES

    def perfect(self, targets: Tensor) -> Tensor:
        return F.one_hot(targets, 5).float()

    def loss_of(self, output: np.ndarray, target: np.ndarray) -> float:
        return float(np.log(np.exp(output).sum()) - output[target])

    def value_of(self, output: np.ndarray, target: np.ndarray) -> float:
        return float(output.argmax() == target)


class TestRegression(TaskContract):
    task: Regression = AGES
    names: tuple[str, ...] = ("age", "weight")
    targets = NUMBERS

    def perfect(self, targets: Tensor) -> Tensor:
        return (targets - NUMBERS.mean(0)) / NUMBERS.std(0, correction=0)

    def loss_of(self, output: np.ndarray, target: np.ndarray) -> float:
        numbers = NUMBERS.double().numpy()
        errors = np.abs(output - (target - numbers.mean(0)) / numbers.std(0))
        return float(np.where(errors < 1, errors**2 / 2, errors - 0.5).mean())

    def value_of(self, output: np.ndarray, target: np.ndarray) -> float:
        numbers = NUMBERS.double().numpy()
        return float(np.abs(output * numbers.std(0) + numbers.mean(0) - target).mean())


class TestOneColumn(TestRegression):
    task, names, targets = replace(AGES, columns=["age"]), ("age",), NUMBERS[:, :1]

    def perfect(self, targets: Tensor) -> Tensor:
        return super().perfect(targets.expand(-1, 2))[:, :1]

    def loss_of(self, output: np.ndarray, target: np.ndarray) -> float:
        error = abs(float(output[0] - self.perfect(torch.tensor(target)[None])[0, 0]))
        return error**2 / 2 if error < 1 else error - 0.5

    def value_of(self, output: np.ndarray, target: np.ndarray) -> float:
        ages = NUMBERS[:, 0].double().numpy()
        return abs(float(output[0] * ages.std() + ages.mean() - target[0]))


# Classification


def test_the_top_1_of_classes_is_a_fraction_that_is_better_higher() -> None:
    assert DIGITS.metric == Metric("top1", "top-1", higher_is_better=True, is_fraction=True)
    assert (DIGITS.num_outputs, DIGITS.output_name) == (5, "logits")


def some_logits() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def test_training_smooths_class_indices_and_evaluation_does_not() -> None:
    logits = some_logits()
    smooth = 0.9 * F.one_hot(CLASSES, 5) + 0.1 / 5
    expected = -(smooth * torch.log_softmax(logits, 1)).sum(1)
    assert_close(DIGITS.training_loss(logits, CLASSES), expected)
    assert torch.equal(
        DIGITS.loss(logits, CLASSES), F.cross_entropy(logits, CLASSES, reduction="none")
    )


def test_mixed_targets_are_not_smoothed_again() -> None:
    logits, soft = some_logits(), torch.softmax(some_logits().flip(0), 1)
    assert torch.equal(DIGITS.training_loss(logits, soft), DIGITS.loss(logits, soft))
    assert_close(DIGITS.loss(logits, soft), -(soft * torch.log_softmax(logits, 1)).sum(1))


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (3, 10), (901, 1000)])
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_the_interval_of_top_1_is_wilsons(hits: int, count: int, confidence: float) -> None:
    mean = hits / count
    expected = binomtest(hits, count).proportion_ci(confidence, method="wilson")
    found = DIGITS.interval(mean, mean * (1 - mean), count, confidence)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_wrong_number_of_classes_names_the_key() -> None:
    message = r"^data\.num_classes must be 3, the number of classes in the data, got 5$"
    with pytest.raises(ValueError, match=message):
        DIGITS.fitted(CLASSES, ("a", "b", "c"))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(
        ValueError, match=rf"^task\.label_smoothing must be in \[0, 1\), got {smoothing}"
    ):
        replace(DIGITS, label_smoothing=smoothing)


# Regression


def test_the_error_of_numbers_is_better_lower() -> None:
    name, words = "mae", "mean absolute error"
    assert AGES.metric == Metric(name, words, higher_is_better=False, is_fraction=False)
    assert (AGES.num_outputs, AGES.label_smoothing) == (2, None)
    assert AGES.metric.worth(3.0) < AGES.metric.worth(2.0)


def test_the_interval_of_an_error_is_the_normal_distributions_above_zero() -> None:
    expected = norm.interval(0.9, loc=3.0, scale=(4.0 / 50) ** 0.5)
    assert AGES.interval(3.0, 4.0, 50, 0.9) == pytest.approx(expected)
    assert AGES.interval(0.1, 4.0, 5, 0.95)[0] == 0


def test_columns_weigh_alike_whatever_their_unit() -> None:
    grams = torch.tensor([1.0, 1000.0])
    first = AGES.fitted(NUMBERS, ("age", "weight"))
    second = AGES.fitted(NUMBERS * grams, ("age", "weight"))
    outputs = some_logits()[:6, :2]
    assert_close(first.loss(outputs, NUMBERS), second.loss(outputs, NUMBERS * grams))


def test_other_columns_name_the_key() -> None:
    message = r"^data\.columns must be \['age'\], got \['age', 'weight'\]$"
    with pytest.raises(ValueError, match=message):
        AGES.fitted(NUMBERS, ("age",))


@pytest.mark.parametrize("value", [30.0, math.nan, math.inf])
def test_targets_that_do_not_vary_or_are_no_numbers_are_refused(value: float) -> None:
    targets = NUMBERS.clone()
    targets[:, 0] = value
    with pytest.raises(
        ValueError, match=r"^data\.columns must be finite and vary .*'age': (0|nan)"
    ):
        AGES.fitted(targets, ("age", "weight"))


def test_a_regression_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^data\.columns must name the targets .*, got none"):
        replace(AGES, columns=[])


def test_a_temperature_has_no_meaning_for_numbers() -> None:
    with pytest.raises(ValueError, match=r"^temperature must be 1 for a regression, got 2"):
        AGES.soft_loss(torch.zeros(1, 2), torch.zeros(1, 2), 2.0)


# Images


@pytest.mark.parametrize("name", ["in_chans", "img_size", "num_classes"])
def test_sizes_that_are_not_positive_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^data\.{name} must be a positive integer, got 0"):
        replace(DIGITS, **{name: 0})  # type: ignore[arg-type]


def test_images_are_square_and_one_an_example() -> None:
    assert square_images(make_task(img_size=6)) == (3, 6)

    class Wide(Classification):
        def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
            return (torch.zeros(batch_size, 3, 4, 6),)

    class Text(Classification):
        def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
            return (torch.zeros(batch_size, 7, dtype=torch.long),)

    for kind in (Wide, Text):
        with pytest.raises(ValueError, match=r"^task must have one square image an example, got"):
            square_images(kind(3, 6, [0.5], [0.2], 5))


@pytest.mark.parametrize("task", [DIGITS, AGES])
def test_lists_from_a_configuration_become_values(task: Classification | Regression) -> None:
    assert isinstance(task.mean, tuple)
    assert isinstance(task.std, tuple)
