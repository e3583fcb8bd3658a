"""What every target runtime must do. Yours is held to it by

    class TestMine(TargetContract):
        runtime = "mine"

        def running(self, model: nn.Module, inputs: Inputs, threads: int = 1) -> Running:
            return my_running(model, inputs, threads)

`running` gives a context in which a call makes one pass of the model and returns its output.
"""

import weakref
from contextlib import AbstractContextManager

import pytest
import timm
import torch
from torch import Tensor, nn

from nas.hardware.runtimes import Inputs, Pass, running, unavailable

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# Of outputs of about 1: sums in another order, and TF32 where PyTorch allows it.
TOLERANCE = 1e-5
Running = AbstractContextManager[Pass]


def vit(width: int = 24) -> nn.Module:
    torch.manual_seed(width)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=3, embed_dim=width, depth=2,
        num_heads=2, num_classes=5,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, width), nn.ReLU(), nn.Linear(width, 5)).eval()


class TwoInputs(nn.Module):
    """Of images and of integers, which choose rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(9, 432)
        self.classify = nn.Linear(432, 5)

    def forward(self, images: Tensor, indices: Tensor) -> Tensor:
        return self.classify(images.flatten(1) - self.rows(indices))


def some_images(device: torch.device = CPU) -> Inputs:
    images = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return (images.to(device),)


def output_of(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.inference_mode():
        return model(*inputs)


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


class TargetContract:
    runtime: str
    device = CPU

    def running(self, model: nn.Module, inputs: Inputs, threads: int = 1) -> Running:
        return running(model, inputs, self.runtime, threads=threads)

    @pytest.fixture(autouse=True)
    def runtime_of_this_machine(self) -> None:
        if self.device.type == "cuda" and not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        if reason := unavailable(self.runtime, self.device, torch.float32):
            pytest.skip(reason)

    def test_it_gives_the_output_of_eager(self) -> None:
        model, inputs = vit().to(self.device), some_images(self.device)
        expected = output_of(model, inputs)
        with self.running(model, inputs) as run:
            for _ in range(2):
                assert_near(run(), expected)

    def test_a_pass_reads_its_inputs_where_they_lie(self) -> None:
        model, (images,) = TwoInputs().eval().to(self.device), some_images(self.device)
        indices = torch.tensor([1, 4, 8], device=self.device)
        with self.running(model, (images, indices)) as run:
            run()
            images.mul_(-3)
            indices.add_(-1)
            assert_near(run(), output_of(model, (images, indices)))

    def test_two_models_run_in_turns_whatever_mode_the_second_is_made_in(self) -> None:
        inputs, first = some_images(self.device), mlp(5).to(self.device)
        with self.running(first, inputs) as one, torch.inference_mode():
            second = mlp(9).to(self.device)
            with self.running(second, inputs) as other:
                for run, model in [(one, first), (other, second), (one, first)]:
                    assert_near(run(), model(*inputs))

    def test_nothing_of_it_stays(self) -> None:
        model, inputs = mlp(7).to(self.device), some_images(self.device)
        watched = weakref.ref(model)
        threads = torch.get_num_threads()
        with self.running(model, inputs, threads=2) as run:
            run()
            assert not torch.is_inference_mode_enabled()
            assert torch.get_num_threads() == threads
        del model
        assert watched() is None
        with pytest.raises(IndexError):
            run()
