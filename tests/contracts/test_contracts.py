"""A part that breaks a promise fails the contract of its kind; a user's own part can keep it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import Option, Space, check_values
from supernet.families.cell import CellSupernet
from supernet.image_tasks import Classification
from supernet.sampling.examples import UniformData
from supernet.sampling.paths import Path as SampledPath
from supernet.sampling.paths import UniformPaths
from supernet.sources.low_rank import Factors
from supernet.sources.source import SharingArch, SourceShape, WeightSource
from tests.contracts.examples import DataContract
from tests.contracts.paths import PathContract
from tests.contracts.source import SourceContract
from tests.contracts.space import SpaceContract
from tests.contracts.supernet import SupernetContract
from tests.contracts.task import TaskContract
from tests.helpers.spaces import CELLS


@dataclass(frozen=True)
class Layers:
    width: int


class Widths(Space[Layers]):
    """A space of one's own: one choice."""

    def choices(self) -> dict[str, tuple[Option, ...]]:
        return {"width": (4, 8, 16)}

    def decode(self, values: Mapping[str, Option]) -> Layers:
        check_values(self.choices(), values)
        return Layers(int(values["width"]))

    def encode(self, arch: Layers) -> dict[str, Option]:
        self.decode({"width": arch.width})
        return {"width": arch.width}

    def from_record(self, record: Mapping[str, object]) -> Layers:
        width = record.get("width")
        if set(record) != {"width"} or not isinstance(width, int):
            raise ValueError(f"an architecture has an integer width, got {dict(record)}")
        return self.decode({"width": width})

    def from_text(self, text: str) -> Layers:
        if not text.startswith("width ") or not text[6:].isdecimal():
            raise ValueError(f"an architecture is written as width 8, got {text!r}")
        return Layers(int(text[6:]))

    def describe(self, arch: Layers) -> dict[str, str]:
        return {"width": str(arch.width)}

    def num_archs(self) -> int:
        return 3

    def features(self, arch: Layers) -> tuple[float, ...]:
        return (arch.width / 16,)


class TestWidths(SpaceContract):
    space = Widths()

    def text(self, arch: Layers) -> str:
        return f"width {arch.width}"


class ForgetfulCells(CellSpace):
    def from_record(self, record: Mapping[str, object]) -> CellArch:
        return self.largest()


class ScaledFactors(Factors):
    def weight(self, layers: range, o: int, i: int, arch: SharingArch) -> Tensor:
        return super().weight(layers, o, i, arch) * (1 + o / 100)


class DoublingSupernet(CellSupernet):
    def forward(self, images: Tensor, arch: CellArch) -> Tensor:
        return 2 * super().forward(images, arch)


class GlobalPaths(UniformPaths[Any]):
    def draw(self, generator: Random) -> list[SampledPath[Any]]:
        random.random()
        return super().draw(generator)


class FewExamples(UniformData):
    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        indices, weights = super().draw(generator)
        return indices[1:], weights[1:]


class SummedLoss(Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().loss(outputs, targets)


class OfCells(SpaceContract):
    space = ForgetfulCells()


class OfFactors(SourceContract):
    def make(self, shape: SourceShape, generator: Generator) -> WeightSource:
        return ScaledFactors(6.0, shape=shape, generator=generator)


class OfDoubling(SupernetContract):
    space, family = CELLS, DoublingSupernet


class OfTask(TaskContract):
    names, targets = ("a", "b", "c"), torch.tensor([0, 1, 2, 0, 1, 2])
    task = SummedLoss(3, 8, (0.5,) * 3, (0.2,) * 3, 3)

    def loss_of(self, output: np.ndarray, target: np.ndarray) -> float:
        return float(np.log(np.exp(output).sum()) - output[target])


BROKEN: dict[str, Callable[[], None]] = {
    "space": OfCells().test_a_json_record_describes_the_same_architecture,
    "source": OfFactors().test_smaller_weights_are_leading_slices_of_larger_ones,
    "supernet": OfDoubling().test_the_extracted_subnet_equals_the_supernet,
    "paths": lambda: PathContract().test_drawing_leaves_the_global_generators_alone(
        GlobalPaths(space=CELLS), CELLS
    ),
    "examples": lambda: (
        DataContract().test_an_epoch_has_as_many_draws_as_examples_with_a_positive_weight_each(
            FewExamples(num_examples=50)
        )
    ),
    "task": OfTask().test_the_loss_of_each_example_is_its_definition,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_found(broken: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        broken()
