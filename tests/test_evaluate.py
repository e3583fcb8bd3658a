"""Scores against networks whose answers are known."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from nas.data.batches import Split
from nas.evaluate import ORDER_SEED, equal_size, evaluate
from supernet.image_tasks import Classification, Regression
from supernet.task import Batch, Task

C = 3
TARGETS: dict[Split, Tensor] = {
    "val": torch.tensor([0, 1, 2, 1, 0, 2, 2]),
    "test": torch.tensor([1, 1]),
}
# What the model below answers for each image of val: right for numbers 0, 1, 3 and 6.
ANSWERS = torch.tensor([0, 1, 1, 1, 2, 0, 2])
IMAGES = {"in_chans": 1, "img_size": 1, "mean": [0.0], "std": [1.0]}
CLASSES = Classification(num_classes=C, label_smoothing=0.5, **IMAGES)  # type: ignore[arg-type]


@dataclass
class FewImages:
    """A data set of few images to evaluate on; image n is one pixel of value n."""

    task: Task = CLASSES
    targets: dict[Split, Tensor] = field(default_factory=lambda: TARGETS)
    num_train: int = 0

    def num_examples(self, split: Split) -> int:
        return len(self.targets[split])

    def unmixed(self) -> "FewImages":
        raise AssertionError("evaluation must not train")

    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        raise AssertionError("evaluation must not train")

    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        assert order is not None
        for chosen in torch.split(order, batch_size):
            images = chosen.float()[:, None, None, None]
            yield Batch((images,), self.targets[split][chosen], chosen)


def few_images(**changes: Any) -> Any:
    return FewImages(**changes)


class Answers(nn.Module):
    """Scores log 4 for the class in ANSWERS and 0 for the others, thus probability 4 / 6."""

    def forward(self, images: Tensor) -> Tensor:
        return log(4) * nn.functional.one_hot(ANSWERS[images.flatten().long()], C).float()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 512])
def test_score_and_loss_are_means_over_the_examples(batch_size: int) -> None:
    score = evaluate(Answers(), few_images(), "val", batch_size=batch_size)
    assert (score.split, score.num_examples, score.complete) == ("val", 7, True)
    assert score.metric == CLASSES.metric
    assert score.value == 4 / 7
    assert score.loss == pytest.approx(-(4 * log(4 / 6) + 3 * log(1 / 6)) / 7)  # not smoothed


def test_the_split_that_is_asked_for_is_evaluated() -> None:
    score = evaluate(Answers(), few_images(), "test")
    assert (score.split, score.num_examples, score.value) == ("test", 2, 1 / 2)


def test_the_network_is_evaluated_without_gradients_on_examples_in_a_random_order() -> None:
    seen, modes = [], []

    def watched(images: Tensor) -> Tensor:
        seen.extend(images.flatten().int().tolist())
        modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return Answers()(images)

    evaluate(watched, few_images(), "val", batch_size=4)
    assert modes == [(False, True)] * 2
    order = torch.randperm(7, generator=Generator().manual_seed(ORDER_SEED))
    assert seen == order.tolist() != sorted(seen)


def test_evaluation_changes_no_weight_and_no_statistic() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1), nn.Linear(1, C)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, few_images(), "val")
    assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_the_interval_is_the_tasks() -> None:
    score = evaluate(Answers(), few_images(), "val")
    z, p, n = 1.959963984540054, 4 / 7, 7
    centre, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]  # Wilson's
    assert [score.low, score.high] == pytest.approx(expected, abs=1e-12)
    assert score.hope > score.high


# Whole batches


@pytest.mark.parametrize(
    ("examples", "largest", "size"), [(5000, 512, 500), (287, 512, 287), (287, 100, 95), (7, 2, 1)]
)
def test_whole_batches_are_equal_and_leave_out_few_examples(
    examples: int, largest: int, size: int
) -> None:
    assert equal_size(examples, largest) == size


def test_what_fills_no_whole_batch_is_left_out_and_told() -> None:
    sizes = []

    def watched(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return Answers()(images)

    score = evaluate(watched, few_images(), "val", batch_size=5, whole_batches=True)
    assert sizes == [3, 3]
    assert (score.num_examples, score.complete) == (6, False)


# Ending early


MANY: dict[Split, Tensor] = {"val": torch.zeros(1000, dtype=torch.long)}


def guess(images: Tensor) -> Tensor:
    """Right for one image in four."""
    return nn.functional.one_hot((images.flatten().long() % 4).clamp(max=2), C).float()


def test_a_hopeless_network_is_not_evaluated_to_the_end() -> None:
    data = few_images(targets=MANY)
    whole = evaluate(guess, data, "val", batch_size=50)
    assert whole.value == 1 / 4
    assert evaluate(guess, data, "val", batch_size=50, floor=0.2) == whole
    ended = evaluate(guess, data, "val", batch_size=50, floor=0.5)
    assert 50 <= ended.num_examples < 400
    assert not ended.complete
    assert not ended.may_reach(0.5)
    assert ended.may_reach(ended.value)


def test_of_an_error_little_is_hoped_for() -> None:
    task = Regression(columns=["age"], **IMAGES)  # type: ignore[arg-type]
    targets = torch.linspace(0, 10, 1000)[:, None]
    task = task.fitted(targets, ("age",))
    data = few_images(task=task, targets={"val": targets})

    def mean_of_all(images: Tensor) -> Tensor:
        return torch.zeros(len(images), 1)  # in units of the standard deviation

    whole = evaluate(mean_of_all, data, "val", batch_size=50)
    assert whole.value == pytest.approx(2.5, rel=2e-3)  # of a uniform distribution of width 10
    spread = 10 / sqrt(48 * 1000)  # of the mean of absolute differences, uniform in 0..5
    assert [whole.low, whole.high] == pytest.approx(
        [whole.value - 1.96 * spread, whole.value + 1.96 * spread], rel=2e-3
    )
    assert whole.hope < whole.low
    assert whole.worth == -whole.value
    assert evaluate(mean_of_all, data, "val", batch_size=50, floor=-3.0) == whole
    ended = evaluate(mean_of_all, data, "val", batch_size=50, floor=-1.0)
    assert not ended.complete
    assert not ended.may_reach(-1.0)
