import os
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import timm
import torch
from torch import Tensor, nn

import nas.hardware.memory
from nas.hardware.memory import MIB, allocator_peak_mib, resident_growth_mib, tells_resident_set
from nas.hardware.runtimes import running

CPU = torch.device("cpu")
IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def peak_mib(model: nn.Module, images: Tensor = IMAGES) -> float:
    """Of an eager pass of the model itself."""
    held = [*model.parameters(), *model.buffers(), images]
    with running(model.eval(), (images,), "eager", threads=1) as run:
        return allocator_peak_mib(run, held, images.device)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths after the images are laid flat."""
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *layers)


def test_memory_of_one_layer_is_its_weights_input_and_output() -> None:
    expected = 50 * 999 + 999 + 3 * 50 + 3 * 999
    assert peak_mib(mlp(50, 999)) == pytest.approx(4 * expected / MIB)


def test_memory_of_a_chain_peaks_at_its_two_largest_neighbours() -> None:
    weights = 51 * 400 + 401 * 900 + 901 * 700 + 701 * 10
    live = 900 + 700  # the output of 400 is freed by then
    expected = 4 * (weights + 3 * (50 + live)) / MIB
    assert peak_mib(mlp(50, 400, 900, 700, 10)) == pytest.approx(expected)


def test_memory_counts_what_is_freed_again_within_the_pass() -> None:
    class Peaked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(1000, 1000).sum() + x

    assert peak_mib(Peaked()) == pytest.approx((4 * 1000**2 + 4 * 150) / MIB, rel=1e-4)


def test_memory_counts_buffers_and_a_tied_weight_once() -> None:
    model = mlp(50, 50, 50)
    model[2].weight = model[1].weight
    model.register_buffer("table", torch.zeros(1234))
    expected = 4 * (50 * 50 + 2 * 50 + 1234 + 3 * 50 * 3) / MIB
    assert peak_mib(model) == pytest.approx(expected)


def test_memory_leaves_out_what_the_first_pass_keeps_for_later() -> None:
    class Lazy(nn.Module):
        workspace: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.workspace is None:
                self.workspace = x.new_zeros(10_000)
            return torch.relu(x)

    assert peak_mib(Lazy()) == pytest.approx(4 * 2 * 150 / MIB)


def test_memory_of_a_vit_is_the_same_at_every_call_and_grows_with_width() -> None:
    def vit(width: int) -> nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=12, patch_size=3, embed_dim=width, depth=2,
            num_heads=2, num_classes=5,
        )  # fmt: skip

    images = torch.randn(3, 3, 12, 12)
    narrow = [peak_mib(vit(24), images) for _ in range(3)]
    assert narrow[0] == narrow[1] == narrow[2]
    assert narrow[0] < peak_mib(vit(32), images)


def test_profiling_memory_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    peak_mib(mlp(50, 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_measures_the_same_layer_as_the_definition() -> None:
    expected = 4 * (51 * 1024 + 3 * 50 + 3 * 1024) / MIB
    assert peak_mib(mlp(50, 1024).cuda(), IMAGES.cuda()) == pytest.approx(expected)


def loader(weights_mib: int, pass_mib: int) -> Callable[[], Callable[[], object]]:
    """Loads weights and makes a pass that writes to memory of its own, freed again."""

    def load() -> Callable[[], object]:
        weights = torch.full((weights_mib, MIB // 4), 0.5)
        return lambda: torch.full((pass_mib, MIB // 4), 0.5).sum() + weights[0, 0]

    return load


needs_resident_set = pytest.mark.skipif(
    not tells_resident_set(), reason="needs a system that lets the peak resident set be reset"
)


@needs_resident_set
@pytest.mark.parametrize("weights_mib", [16, 48])
def test_resident_set_grows_by_weights_and_the_largest_of_a_pass(weights_mib: int) -> None:
    growth_mib = resident_growth_mib(loader(weights_mib, pass_mib=24))
    assert growth_mib == pytest.approx(weights_mib + 24, abs=3)


@needs_resident_set
def test_a_peak_before_does_not_count() -> None:
    loader(256, pass_mib=1)()()
    growth_mib = resident_growth_mib(loader(8, pass_mib=8))
    assert growth_mib == pytest.approx(16, abs=3)


@needs_resident_set
def test_what_the_first_loading_keeps_does_not_count() -> None:
    kept: list[Tensor] = []

    def load() -> Callable[[], object]:
        if not kept:
            kept.append(torch.full((64, MIB // 4), 0.5))
        return loader(8, pass_mib=8)()

    assert resident_growth_mib(load) == pytest.approx(16, abs=3)


@needs_resident_set
def test_one_loading_that_is_off_leaves_the_figure_alone() -> None:
    sizes = [8, 8, 128, 8]

    def load() -> Callable[[], object]:
        return loader(sizes.pop(0), pass_mib=8)()

    assert resident_growth_mib(load) == pytest.approx(16, abs=3)
    assert not sizes


def test_a_system_that_does_not_tell_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Callable[[], object]:
        raise AssertionError("nothing is loaded for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert resident_growth_mib(load) is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert resident_growth_mib(load) is None


@needs_resident_set
def test_a_figure_that_the_system_lacks_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no VmNone"):
        nas.hardware.memory.resident_kib("VmNone")
