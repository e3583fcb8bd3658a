"""Statistics of batch norms: estimated on batches, or lent by the batch itself."""

import copy

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from supernet.batch_norm import batch_norms, batch_statistics, calibrate
from tests.helpers.spaces import CELLS, make_cells, some_images


def some_batches() -> list[tuple[Tensor]]:
    return [(some_images(4, seed, size=8),) for seed in (1, 2, 3)]


def inputs_of(norm: nn.Module, model: nn.Module) -> list[Tensor]:
    """What a norm sees of each batch while all norms use the batch's statistics."""
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with batch_statistics(model), torch.no_grad():
        for (images,) in some_batches():
            model(images)
    hook.remove()
    return seen


def test_calibration_averages_each_norms_batch_means_and_unbiased_variances() -> None:
    plain = make_cells().extract(CELLS.largest())
    expected = {name: inputs_of(plain.get_submodule(name), plain) for name in ("stem.1", "last.0")}
    calibrate(plain, some_batches())
    for name, seen in expected.items():
        means = torch.stack([x.mean((0, 2, 3)) for x in seen])
        variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen])
        assert_close(plain.get_buffer(f"{name}.running_mean"), means.mean(0))
        assert_close(plain.get_buffer(f"{name}.running_var"), variances.mean(0))


def test_calibration_leaves_nothing_else_behind() -> None:
    plain = make_cells().extract(CELLS.largest())
    before = copy.deepcopy(plain)
    calibrate(plain, some_batches())
    assert not any(module.training for module in plain.modules())
    for norm, old in zip(batch_norms(plain), batch_norms(before), strict=True):
        assert (norm.momentum, norm.track_running_stats) == (old.momentum, True)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))
    once = plain.state_dict()
    calibrate(plain, some_batches())
    assert all(torch.equal(once[name], value) for name, value in plain.state_dict().items())


def test_batch_statistics_are_lent_for_a_while() -> None:
    plain, images = make_cells().extract(CELLS.largest()), some_images(size=8)
    calibrate(plain, some_batches())
    before, state = plain(images), copy.deepcopy(plain.state_dict())
    with batch_statistics(plain):
        assert not torch.allclose(plain(images), before)
    assert torch.equal(plain(images), before)
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
