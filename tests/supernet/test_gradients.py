"""Norms of one path's gradient alone, and of each example's at its outputs, by separate passes."""

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from nas.train.lessons import Lesson
from nas.train.training import Training
from supernet.losses import InPlaceDistillation, Labels, Teaching, cross_entropy
from supernet.sampling.gradients import GradientMoments, alone, gradient_norm, output_gradient_norms
from supernet.sampling.paths import Path, PathGradient, PathSampler
from supernet.task import Batch
from tests.helpers.spaces import make_task
from tests.train.test_train import make_training

SINGLE = ("distillation=none", "train.clip_grad=0.05")


def small_model(seed: int = 0) -> nn.Sequential:
    generator = Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model


def some_losses(model: nn.Sequential) -> list[Tensor]:
    """The second one does not reach the first layer."""
    inputs = torch.randn(4, 3, generator=Generator().manual_seed(1))
    return [
        model(inputs).square().mean(),
        model[2](torch.ones(1, 5)).sum(),
        3 * model(inputs.flip(0) ** 2).sum(),
    ]


@pytest.mark.parametrize("isolated", [(0,), (1,), (2,), (0, 1, 2), (1, 2)])
def test_a_pass_alone_leaves_the_sum_of_gradients_as_it_would_be(isolated: Sequence[int]) -> None:
    plain, model = small_model(), small_model()
    parameters = list(model.parameters())
    for loss in some_losses(plain):
        loss.backward()
    for place, loss in enumerate(some_losses(model)):
        if place in isolated:
            with alone(parameters):
                assert all(parameter.grad is None for parameter in parameters)
                loss.backward()
        else:
            loss.backward()
    for found, expected in zip(parameters, plain.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert torch.equal(found.grad, expected.grad)


def test_within_a_pass_alone_there_is_its_own_gradient_only() -> None:
    model, other = small_model(), small_model()
    parameters = list(model.parameters())
    first, second, _ = some_losses(model)
    first.backward()
    expected = some_losses(other)[1]
    expected.backward()
    with alone(parameters):
        second.backward()
        for found, same in zip(parameters, other.parameters(), strict=True):
            assert_close(found.grad, same.grad, rtol=0, atol=0)
        assert float(gradient_norm(parameters)) == pytest.approx(12**0.5)  # ten ones and two


# Norms of paths, in a real step

SANDWICH = "paths.largest_first=0"  # from the first step on


def spy_on(
    paths: PathSampler[Any], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Path[Any], PathGradient]]:
    seen: list[tuple[Path[Any], PathGradient]] = []
    monkeypatch.setattr(paths, "observe", lambda path, gradient: seen.append((path, gradient)))
    return seen


def heavier(paths: PathSampler[Any], weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives random paths a weight, which norms must not depend on."""
    draw = paths.draw

    def weighted(generator: Random) -> list[Path[Any]]:
        return [
            Path(path.arch, path.role, weight) if path.role == "random" else path
            for path in draw(generator)
        ]

    monkeypatch.setattr(paths, "draw", weighted)


def own_norms(
    training: Training, batch: Batch, arch: Any, weights: Tensor, teacher: Any = None
) -> tuple[float, dict[str, list[float]]]:
    """Of the unweighted path's loss, from a backward pass of its own on a copy of the weights."""
    supernet: Any = copy.deepcopy(training.network)
    supernet.zero_grad()
    logits = supernet(*batch.inputs, arch=arch)
    answers = None if teacher is None else supernet(*batch.inputs, arch=teacher).detach()
    task = training.data.task
    hard = task.training_loss(logits, batch.targets)
    (weights * training.config.distillation(task, logits, hard, answers)).mean().backward()
    found = supernet.choice_gradients(arch)
    choices = {name: [float(part.norm()) for part in parts] for name, parts in found.items()}
    return float(gradient_norm(supernet.parameters())), {n: c for n, c in choices.items() if c}


def assert_choices(found: PathGradient, expected: dict[str, list[float]], scale: float = 1) -> None:
    assert {name: list(norms) for name, norms in found.choices.items()}.keys() == expected.keys()
    for name, norms in expected.items():
        scaled = [norm * scale for norm in norms]
        assert list(found.choices[name]) == pytest.approx(scaled, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("attribution", ["path", "choice"])
def test_norms_of_a_path_within_a_sandwich_are_those_of_its_own_backward_pass(
    attribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = "paths=sandwich_importance", f"paths.random.attribution={attribution}"
    training = make_training(*sampler, SANDWICH, "train.update=step", "train.batches=shared")
    seen = spy_on(training.paths, monkeypatch)
    heavier(training.paths, 1.7, monkeypatch)
    batch = next(training.epoch_batches())
    training.weights = torch.linspace(0.5, 1.5, len(training.weights))
    before = copy.deepcopy(training)
    training.train_step(batch)
    assert [path.role for path, _ in seen] == ["random", "random"]
    weights, largest = training.weights[: len(batch.targets)], training.config.space.largest()
    for path, gradient in seen:
        norm, choices = own_norms(before, batch, path.arch, weights, largest)
        assert gradient.path == pytest.approx(norm, rel=1e-4)
        assert_choices(gradient, choices if attribution == "choice" else {})
        assert choices


def test_norms_of_a_path_that_moves_the_weights_are_of_its_own_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = make_training("paths=sandwich_importance", SANDWICH, "train.batches=shared")
    seen = spy_on(training.paths, monkeypatch)
    heavier(training.paths, 1.7, monkeypatch)
    batch = next(training.epoch_batches())
    moved, backward = [], training.backward

    def watched(*arguments: Any) -> Any:
        moved.append(copy.deepcopy(training.network))
        return backward(*arguments)

    monkeypatch.setattr(training, "backward", watched)
    training.train_step(batch)
    assert [path.role for path, _ in seen] == ["random", "random"]
    weights, largest = torch.ones(len(batch.targets)), training.config.space.largest()
    answers = moved[0](*batch.inputs, arch=largest).detach()
    for network, (path, gradient) in zip(moved[1:3], seen, strict=True):
        logits, task = network(*batch.inputs, arch=path.arch), training.data.task
        hard = task.training_loss(logits, batch.targets)
        (weights * training.config.distillation(task, logits, hard, answers)).mean().backward()
        assert gradient.path == pytest.approx(float(gradient_norm(network.parameters())), rel=1e-4)


def test_a_sandwich_that_learns_has_the_gradient_of_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradients = []
    for norms in ("none", "path", "choice"):
        training = make_training(
            "paths=sandwich", SANDWICH, "train.clip_grad=0", "train.update=step"
        )
        training.paths.norms = norms
        seen = spy_on(training.paths, monkeypatch)
        training.train_step(next(training.epoch_batches()))
        assert len(seen) == (0 if norms == "none" else 2)
        gradients.append([parameter.grad for parameter in training.network.parameters()])
    assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert_close(gradients[2], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("attribution", ["path", "choice"])
def test_a_single_path_is_observed_before_clipping_and_without_its_weight(
    attribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training("paths=importance", f"paths.attribution={attribution}", *SINGLE)
    seen = spy_on(training.paths, monkeypatch)
    heavier(training.paths, 2.5, monkeypatch)
    batch = next(training.epoch_batches())
    before = copy.deepcopy(training)
    figures = training.train_step(batch)
    ((path, gradient),) = seen
    norm, choices = own_norms(before, batch, path.arch, torch.ones(len(batch.targets)))
    assert gradient.path == pytest.approx(norm, rel=1e-4)
    assert gradient.path == pytest.approx(figures["grad_norm"] / 2.5, rel=1e-6)
    assert figures["grad_norm"] > 0.1  # clipping has an effect
    assert_choices(gradient, choices if attribution == "choice" else {})


def test_published_paths_see_norms_after_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_training("paths=published", *SINGLE)
    seen = spy_on(training.paths, monkeypatch)
    batch = next(training.epoch_batches())
    before = copy.deepcopy(training)
    figures = training.train_step(batch)
    ((path, gradient),) = seen
    norm, choices = own_norms(before, batch, path.arch, torch.ones(len(batch.targets)))
    assert norm > 0.1
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert_choices(gradient, choices, scale=0.05 / norm)


def test_paths_that_learn_nothing_are_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    for paths, distillation in (("uniform", "none"), ("sandwich", "in_place")):
        training = make_training(f"paths={paths}", f"distillation={distillation}")
        seen = spy_on(training.paths, monkeypatch)
        training.train_step(next(training.epoch_batches()))
        assert not seen


# Norms of examples


def some_logits(seed: int = 0) -> Tensor:
    return torch.randn(6, 4, generator=Generator().manual_seed(seed))


HARD = torch.tensor([0, 1, 2, 3, 1, 1])
MIXED = torch.softmax(2 * some_logits(5), 1)
SMOOTHED = 0.9 * F.one_hot(HARD, 4) + 0.1 / 4


@pytest.mark.parametrize(
    ("targets", "smoothing", "soft"),
    [(HARD, 0.0, F.one_hot(HARD, 4)), (HARD, 0.1, SMOOTHED), (MIXED, 0.0, MIXED)],
    ids=["hard", "smoothed", "mixup"],
)
def test_scores_are_the_distance_of_the_softmax_from_the_target(
    targets: Tensor, smoothing: float, soft: Tensor
) -> None:
    logits, scales = some_logits().requires_grad_(), torch.linspace(0.2, 3.0, 6)
    logits.retain_grad()
    (scales * cross_entropy(logits, targets, smoothing)).sum().backward()
    expected = (torch.softmax(logits.detach(), 1) - soft).norm(dim=1)
    assert_close(output_gradient_norms(logits, scales), expected)


@pytest.mark.parametrize(
    "teaching", [Labels(), InPlaceDistillation(0.3, 2.0)], ids=["labels", "distillation"]
)
def test_scores_are_the_norms_of_the_gradient_of_whatever_loss_there_is(teaching: Teaching) -> None:
    logits, teacher = some_logits().requires_grad_(), some_logits(1)
    scales = torch.linspace(0.2, 3.0, 6)

    def losses(at: Tensor) -> Tensor:
        return teaching(make_task(num_classes=4), at, cross_entropy(at, HARD, 0.1), teacher)

    expected = [
        torch.autograd.grad(losses(logits)[row], logits)[0].norm() for row in range(len(HARD))
    ]
    (scales * losses(logits)).sum().backward()
    assert_close(output_gradient_norms(logits, scales), torch.stack(expected).detach())


def test_scores_of_outputs_of_any_shape_are_norms_over_all_of_an_example() -> None:
    outputs = torch.randn(3, 4, 5, generator=Generator().manual_seed(0)).requires_grad_()
    outputs.retain_grad()
    scales = torch.tensor([0.5, 1.0, 2.0])
    (scales * outputs.square().sum((1, 2))).sum().backward()
    expected = 2 * outputs.detach().flatten(1).norm(dim=1)
    assert_close(output_gradient_norms(outputs, scales), expected)


@pytest.mark.parametrize(
    "options", [("paths=sandwich", "train.batches=shared"), ("paths=importance", *SINGLE)]
)
def test_a_step_scores_its_examples_by_the_mean_over_paths_without_weights(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training("examples=importance", *options)
    heavier(training.paths, 1.7, monkeypatch)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(training.data_sampler, "observe", lambda *found: seen.append(found))
    batch = next(training.epoch_batches())
    training.weights = torch.linspace(0.5, 1.5, len(training.weights))
    before = copy.deepcopy(training)
    training.train_step(batch)
    ((indices, scores),) = seen
    assert torch.equal(indices, batch.indices)
    expected, teacher = [], None
    for path in before.paths.draw(before.path_generator):
        logits = before.network(*batch.inputs, arch=path.arch)
        hard = cross_entropy(logits, batch.targets, 0.1)
        loss = training.config.distillation(training.data.task, logits, hard, teacher).sum()
        expected.append(torch.autograd.grad(loss, logits)[0].norm(dim=1))
        teacher = logits.detach() if path.role == "largest" else teacher
    assert_close(scores, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)


def test_examples_of_each_path_are_scored_by_that_path(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_training("examples=importance", SANDWICH, "train.update=step")
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(training.data_sampler, "observe", lambda *found: seen.append(found))
    batch = next(training.epoch_batches())
    before = copy.deepcopy(training)
    training.train_step(batch)
    ((indices, scores),) = seen
    assert torch.equal(indices, batch.indices)
    expected, largest = [], training.config.space.largest()
    paths = before.paths.draw(before.path_generator)
    parts = zip(batch.inputs[0].chunk(4), batch.targets.chunk(4), strict=True)
    for path, (images, targets) in zip(paths, parts, strict=True):
        logits = before.network(images, arch=path.arch)
        hard = cross_entropy(logits, targets, 0.1)
        answers = None if path.role == "largest" else before.network(images, arch=largest).detach()
        loss = training.config.distillation(training.data.task, logits, hard, answers).sum()
        expected.append(torch.autograd.grad(loss, logits)[0].norm(dim=1))
    assert_close(scores, torch.cat(expected), rtol=1e-4, atol=1e-6)


def test_a_mixed_example_has_the_weights_of_both_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = make_training("examples=importance", "data.mixup=0.8", "paths=sandwich")
    applied: list[Tensor] = []
    backward = training.backward

    def spy(lessons: list[Lesson], *rest: Any) -> Any:
        applied.extend(lesson.weights for lesson in lessons)
        return backward(lessons, *rest)

    monkeypatch.setattr(training, "backward", spy)
    batch = next(training.epoch_batches())
    training.weights = torch.linspace(0.5, 1.5, len(training.weights))
    training.train_step(batch)
    own = training.weights[training.order[: len(batch.indices)]]
    mirrored = torch.tensor([float(own[len(own) - 1 - place]) for place in range(len(own))])
    assert_close(torch.cat(applied), own * mirrored)


# How much an estimate varies


def test_moments_are_the_mean_and_the_trace_of_the_covariance() -> None:
    model, moments, drawn = small_model(), GradientMoments(), []
    generator = Generator().manual_seed(3)
    for draw in range(7):
        model.zero_grad()
        whole = model(torch.randn(2, 3, generator=generator)).sum()
        loss = whole if draw % 2 else model[2](torch.ones(1, 5)).sum()  # some gradients are None
        loss.backward()
        moments.add(model.parameters())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        drawn.append(torch.cat([part.flatten() for part in parts]).numpy())
    gradients = np.stack(drawn).astype(np.float64)
    assert moments.count == 7
    assert_close(moments.mean.numpy(), gradients.mean(0))
    assert moments.variance == pytest.approx(np.trace(np.cov(gradients.T)), rel=1e-9)
