"""What every task must do. Yours is held to it by

    class TestMine(TaskContract):
        task = MyTask(...)
        names = ("age",)  # of its classes or columns
        targets = some_targets  # (n, ...), of n training examples

        def perfect(self, targets: Tensor) -> Tensor: ...  # outputs that hit them

        def loss_of(self, output: np.ndarray, target: np.ndarray) -> float: ...  # by definition

        def value_of(self, output: np.ndarray, target: np.ndarray) -> float: ...  # of the metric

Letters: B batch, n examples.
"""

import json
import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from supernet.task import Task

NUM_BATCH = 6


class TaskContract:
    task: Task
    names: tuple[str, ...]
    targets: Tensor

    def perfect(self, targets: Tensor) -> Tensor:
        """Outputs (B, num_outputs) of the fitted task that hit the targets (B, ...)."""
        raise NotImplementedError

    def loss_of(self, output: np.ndarray, target: np.ndarray) -> float:
        raise NotImplementedError

    def value_of(self, output: np.ndarray, target: np.ndarray) -> float:
        raise NotImplementedError

    @property
    def fitted(self) -> Task:
        return self.task.fitted(self.targets, self.names)

    def outputs(self, seed: int = 0, size: int = NUM_BATCH) -> Tensor:
        generator = Generator().manual_seed(seed)
        return 2 * torch.randn(size, self.task.num_outputs, generator=generator)

    def batch(self) -> Tensor:
        return self.targets[:NUM_BATCH]

    def test_a_task_is_a_value(self) -> None:
        assert hash(self.task) == hash(self.task)
        assert self.fitted == self.fitted
        assert {self.fitted, self.fitted} == {self.fitted}

    def test_fitting_leaves_the_task_as_it_was(self) -> None:
        before = repr(self.task)
        assert self.fitted.metric == self.task.metric
        assert self.fitted.num_outputs == self.task.num_outputs
        assert repr(self.task) == before

    def test_names_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^(data|task)\.\w+ must .*got"):
            self.task.fitted(self.targets, (*self.names, "another"))

    def test_the_loss_of_each_example_is_its_definition(self) -> None:
        outputs, targets = self.outputs(), self.batch()
        found = self.fitted.loss(outputs, targets)
        pairs = zip(outputs.double().numpy(), targets.numpy(), strict=True)
        assert found.tolist() == pytest.approx([self.loss_of(*pair) for pair in pairs], rel=1e-5)

    def test_the_mean_of_the_values_is_the_metric(self) -> None:
        outputs, targets = self.outputs(), self.batch()
        found = self.fitted.values(outputs, targets)
        pairs = zip(outputs.double().numpy(), targets.numpy(), strict=True)
        expected = [self.value_of(*pair) for pair in pairs]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)
        assert float(found.mean()) == pytest.approx(np.mean(expected), rel=1e-5)

    def test_outputs_that_hit_the_targets_are_worth_most(self) -> None:
        task, targets = self.fitted, self.batch()
        best = float(task.values(self.perfect(targets), targets).mean())
        others = [float(task.values(self.outputs(s), targets).mean()) for s in range(20)]
        assert all(task.metric.worth(best) >= task.metric.worth(other) for other in others)
        assert len(set(others)) > 1

    def test_losses_are_float32_of_low_precision_as_well(self) -> None:
        task, outputs, targets = self.fitted, self.outputs().bfloat16(), self.batch()
        for loss in (task.loss, task.training_loss):
            assert loss(outputs, targets).dtype == torch.float32
            assert torch.equal(loss(outputs, targets), loss(outputs.float(), targets))
        teacher = self.outputs(1).bfloat16()
        expected = task.soft_loss(outputs.float(), teacher.float(), 1.0)
        assert torch.equal(task.soft_loss(outputs, teacher, 1.0), expected)

    def test_training_losses_lead_to_the_targets(self) -> None:
        task, targets = self.fitted, self.batch()
        outputs = self.outputs().requires_grad_()
        optimizer = torch.optim.Adam([outputs], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            task.training_loss(outputs, targets).sum().backward()
            optimizer.step()
        found = float(task.values(outputs.detach(), targets).mean())
        best = float(task.values(self.perfect(targets), targets).mean())
        assert found == pytest.approx(best, abs=0.1)

    def test_the_soft_loss_is_zero_at_equality_and_positive_elsewhere(self) -> None:
        outputs, others = self.outputs(), self.outputs(1)
        zeros = torch.zeros(NUM_BATCH)
        assert_close(self.fitted.soft_loss(outputs, outputs, 1.0), zeros, atol=1e-5, rtol=0)
        assert bool((self.fitted.soft_loss(outputs, others, 1.0) > 0).all())

    def test_no_gradient_of_the_soft_loss_reaches_the_teacher(self) -> None:
        student, teacher = self.outputs().requires_grad_(), self.outputs(1).requires_grad_()
        loss = self.fitted.soft_loss(student, teacher, 1.0)
        assert loss.shape == (NUM_BATCH,)
        of_student, of_teacher = torch.autograd.grad(
            loss.sum(), (student, teacher), allow_unused=True
        )
        assert of_teacher is None
        assert of_student.abs().sum() > 0

    def some_values(self, count: int = 4000) -> Tensor:
        """Of random outputs half way to the targets, so that there are good and bad ones."""
        targets = self.targets[torch.arange(count) % len(self.targets)]
        outputs = self.perfect(targets) + self.outputs(2, count)
        return self.fitted.values(outputs, targets).double()

    def interval(self, values: Tensor, confidence: float = 0.95) -> tuple[float, float]:
        mean, variance = float(values.mean()), float(values.var(correction=0))
        return self.fitted.interval(mean, variance, len(values), confidence)

    def test_the_interval_covers_the_mean_as_often_as_it_says(self) -> None:
        values = self.some_values()
        truth, generator, covered = float(values.mean()), Generator().manual_seed(0), 0
        for _ in range(400):
            drawn = values[torch.randint(len(values), (100,), generator=generator)]
            low, high = self.interval(drawn)
            covered += low <= truth <= high
        # Four standard deviations of a binomial count, and 2 % for an interval that is not exact.
        assert abs(covered / 400 - 0.95) < 0.02 + 4 * (0.95 * 0.05 / 400) ** 0.5

    def test_the_interval_narrows_with_examples_and_widens_with_confidence(self) -> None:
        values = self.some_values()
        widths = [high - low for low, high in (self.interval(values[:n]) for n in (100, 400, 4000))]
        assert widths[0] > widths[1] > widths[2] > 0
        low, high = self.interval(values[:100], 0.999)
        assert high - low > widths[0]
        assert low <= float(values[:100].mean()) <= high

    def test_the_interval_of_few_or_equal_values_is_one(self) -> None:
        for mean in (0.0, 1.0):
            low, high = self.fitted.interval(mean, 0.0, 1, 0.95)
            assert low <= mean <= high
            assert math.isfinite(low)
            assert math.isfinite(high)

    def test_example_inputs_are_the_same_at_every_call(self) -> None:
        before = torch.get_rng_state()
        first, second = self.task.example_inputs(3), self.task.example_inputs(3)
        assert len(first) == len(self.task.input_names) == len(set(self.task.input_names))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)
            assert one.device.type == "cpu"
            assert len(one) == 3
        shapes = [one.shape[1:] for one in self.task.example_inputs(1)]
        assert shapes == [one.shape[1:] for one in first]
        assert torch.equal(torch.get_rng_state(), before)

    def test_facts_are_plain_values(self) -> None:
        facts = self.fitted.facts()
        assert json.loads(json.dumps(facts)) == facts
        assert set(self.names) <= set(strings(facts))

    def test_the_code_of_the_usage_binds_the_outputs_of_one_example(self) -> None:
        text = self.fitted.usage()
        assert not text.startswith(("#", "```"))
        _, code, rest = text.replace("```python", "```").split("```")
        assert not rest.strip()

        def model(*inputs: Tensor) -> Tensor:
            expected = [example.shape for example in self.task.example_inputs(1)]
            assert [one.shape for one in inputs] == expected
            return self.outputs(size=1)

        found = {"torch": torch, "model": model}
        exec(code, found)
        assert torch.equal(torch.as_tensor(found["outputs"]), self.outputs(size=1))


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []
