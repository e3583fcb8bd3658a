import dataclasses
from contextlib import closing
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from nas.hardware.timing import Effort
from nas.measure.bench import Bench, Session, count_flops
from tests.helpers.clocks import Clock, Sleeper
from tests.helpers.devices import CARD, INPUTS, measured

EFFORT = Effort(warmup=1, passes=6, precision=0.02, time_limit_s=1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths after the images of CARD are laid flat."""
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *layers)


def test_latency_is_relative_to_the_reference(clock: Clock) -> None:
    with closing(Bench(Sleeper(clock, 2), INPUTS, CARD, EFFORT)) as bench:
        one, other = bench.sessions([Sleeper(clock, 3), Sleeper(clock, 5)])
    assert (one.model_ms, other.model_ms) == ((3.0,) * 6, (5.0,) * 6)
    assert one.reference_ms == other.reference_ms == (2.0,) * 6
    assert (one.latency().ratio, other.latency().ratio) == (1.5, 2.5)
    assert (one.num_warmup, one.num_interrupted, one.num_throttled) == (2, 0, 0)


def test_a_model_may_be_its_own_reference(clock: Clock) -> None:
    model = Sleeper(clock, 3)
    with closing(Bench(model, INPUTS, CARD, EFFORT)) as bench:
        assert bench.sessions([model])[0].latency().ratio == 1


def test_timed_passes_run_as_the_card_says_and_leave_no_trace(clock: Clock) -> None:
    card = dataclasses.replace(CARD, threads=2, dtype="bfloat16")
    model = Sleeper(clock, 3).train()
    with closing(Bench(model, INPUTS, card, EFFORT)) as bench:
        bench.rounds([])
    assert Sleeper.seen == {
        "training": False,
        "inference": True,
        "threads": 2,
        "dtypes": (torch.bfloat16, torch.bfloat16),
        "shape": (3, 2, 5, 5),
    }
    assert model.training
    assert model.weight.dtype == torch.float32
    assert torch.get_num_threads() == 1


def test_threads_are_restored_when_a_model_fails() -> None:
    card = dataclasses.replace(CARD, threads=2)
    with closing(Bench(mlp(50, 3), INPUTS, card, EFFORT)) as bench:
        with pytest.raises(RuntimeError, match="shapes"):
            bench.sessions([mlp(3, 3)])
        assert torch.get_num_threads() == 1


def test_a_session_counts_flops_and_memory_of_its_model() -> None:
    with closing(Bench(mlp(50, 3), INPUTS, CARD, EFFORT)) as bench:
        (session,) = bench.sessions([mlp(50, 999)])
    assert session.flops == 2 * 50 * 999
    elements = 50 * 999 + 999 + 3 * 50 + 3 * 999
    assert session.memory_mib == pytest.approx(4 * elements / 2**20)
    assert session.resident_mib is None or session.resident_mib >= 0
    assert session.energy_mj is None


def test_runtimes_take_turns_and_those_that_are_not_there_say_why() -> None:
    with closing(Bench(mlp(50, 3), INPUTS, CARD, EFFORT)) as bench:
        found = bench.across_runtimes(mlp(50, 30), ["eager", "onnxruntime", "cuda_graph"])
    assert list(found) == ["eager", "onnxruntime", "cuda_graph"]
    for runtime in ("eager", "onnxruntime"):
        latency = found[runtime]
        assert not isinstance(latency, str)
        assert latency.ratio > 0
    assert "CUDA" in str(found["cuda_graph"])


def test_a_runtime_that_fails_on_a_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class NotExportable(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * 2 if float(images.sum()) > 0 else images

    with closing(Bench(mlp(50, 3), INPUTS, CARD, EFFORT)) as bench:
        found = bench.across_runtimes(NotExportable(), ["onnxruntime", "eager"])
    assert isinstance(found["onnxruntime"], str)
    assert not isinstance(found["eager"], str)


def test_flops_of_a_vit_equal_the_analytic_count() -> None:
    size, patch, width, hidden, depth, classes = 12, 3, 24, 60, 3, 5
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=2, mlp_ratio=2.5, num_classes=classes,
    )  # fmt: skip
    patches = (size // patch) ** 2
    tokens = patches + 1
    embed = 2 * patches * 3 * patch**2 * width
    attention = 2 * tokens * width * 4 * width + 2 * 2 * tokens**2 * width
    block = attention + 2 * 2 * tokens * width * hidden
    expected = embed + depth * block + 2 * width * classes
    assert count_flops(vit, (torch.zeros(2, 3, size, size),)) == expected


def test_counting_flops_leaves_the_model_as_it_was() -> None:
    model = mlp(50, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_flops(model, INPUTS) == 2 * 50 * 3
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training


class Gather(nn.Module):
    """Two inputs, of which one holds integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 50)
        self.last = nn.Linear(50, 3)

    def forward(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return self.last(images.flatten(1) + self.table(indices))


def test_a_model_of_several_inputs_is_measured_with_all_of_them() -> None:
    inputs = (*INPUTS, torch.tensor([1, 2, 8]))
    card = dataclasses.replace(CARD, dtype="bfloat16")
    with closing(Bench(Gather(), inputs, card, EFFORT)) as bench:
        (session,) = bench.sessions([Gather()])
        assert [tensor.dtype for tensor in bench.inputs] == [torch.bfloat16, torch.int64]
    assert session.flops == 2 * 50 * 3
    assert count_flops(Gather(), inputs) == 2 * 50 * 3


def test_what_was_found_of_a_model_before_is_not_looked_for_again() -> None:
    known = dataclasses.replace(measured(0.5, low=0.4, high=0.6), memory_mib=12.5, flops=77)
    with closing(Bench(mlp(50, 3), INPUTS, CARD, EFFORT)) as bench:
        one, other = bench.sessions([mlp(50, 30), mlp(50, 3)], known=[known, None])
    assert (one.memory_mib, one.flops) == (12.5, 77)
    assert other.flops == 2 * 50 * 3


@pytest.mark.parametrize(
    "times",
    [((), ()), ((1.0,), (1.0,)), ((1.0, 2.0), (1.0,)), ((1.0, 0.0), (1.0, 2.0))],
)
def test_a_session_has_pairs_of_positive_milliseconds(
    times: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    with pytest.raises(ValueError, match="a session must have pairs of positive milliseconds, got"):
        Session(*times, 1, 0, 0, 1.0, None, None, 1)
