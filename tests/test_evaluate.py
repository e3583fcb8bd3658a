"""Accuracy and loss against a model whose answers are known."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nas.data.batches import Batch, Split
from nas.evaluate import Accuracy, evaluate

C = 3
TARGETS: dict[Split, Tensor] = {
    "val": torch.tensor([0, 1, 2, 1, 0, 2, 2]),
    "test": torch.tensor([1, 1]),
}
# What the model below answers for each image of val: right for numbers 0, 1, 3 and 6.
ANSWERS = torch.tensor([0, 1, 1, 1, 2, 0, 2])


@dataclass
class FewImages:
    """A data set of 7 images to evaluate on; image n is one pixel of value n."""

    num_train: int = 0

    def num_examples(self, split: Split) -> int:
        return len(TARGETS[split])

    def unmixed(self) -> "FewImages":
        raise AssertionError("evaluation must not train")

    def train_batches(
        self, indices: Tensor, *, batch_size: int, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        raise AssertionError("evaluation must not train")

    def eval_batches(
        self, split: Split, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[Batch]:
        for chosen in torch.split(torch.arange(self.num_examples(split)), batch_size):
            yield Batch(chosen.float()[:, None, None, None], TARGETS[split][chosen], chosen)


class Answers(nn.Module):
    """Scores log 4 for the class in ANSWERS and 0 for the others, thus probability 4 / 6."""

    def forward(self, images: Tensor) -> Tensor:
        return log(4) * nn.functional.one_hot(ANSWERS[images.flatten().long()], C).float()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 512])
def test_accuracy_and_loss_are_means_over_the_images(batch_size: int) -> None:
    accuracy = evaluate(Answers(), FewImages(), "val", batch_size=batch_size)
    assert (accuracy.split, accuracy.num_examples) == ("val", 7)
    assert accuracy.top1 == 4 / 7
    assert accuracy.loss == pytest.approx(-(4 * log(4 / 6) + 3 * log(1 / 6)) / 7)


def test_the_split_that_is_asked_for_is_evaluated() -> None:
    accuracy = evaluate(Answers(), FewImages(), "test")
    assert (accuracy.split, accuracy.num_examples, accuracy.top1) == ("test", 2, 1 / 2)


def test_the_model_is_evaluated_in_eval_mode_without_gradients() -> None:
    seen = []

    class Watched(Answers):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(images)

    evaluate(Watched().train(), FewImages(), "val", batch_size=4)
    assert seen == [(False, False)] * 2


def test_evaluation_changes_no_weight_and_no_statistic() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1), nn.Linear(1, C)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, FewImages(), "val")
    assert_close(model.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (287, 1000)])
def test_the_interval_is_that_of_wilson(hits: int, n: int) -> None:
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    z, p = 1.959963984540054, hits / n
    centre, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert Accuracy("val", p, 0.0, n).interval() == pytest.approx(expected, abs=1e-12)
