"""Which subnets and which examples a training step sees.

Path samplers and data samplers are alike: they take a generator, return each draw with its weight,
and have a state that a checkpoint keeps. A weight is 1 / (N p) for a draw of probability p among N,
so that the weighted loss estimates the uniform mean; it is 1 for uniform draws.
"""

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from search_spaces.space import Space


@dataclass(frozen=True)
class Path:
    """One subnet of a training step; `role` is largest, random or smallest."""

    arch: Any
    role: str
    weight: float = 1.0


class PathSampler(Protocol):
    """Draws the subnets of each step, in the order in which they are trained."""

    begins_with_largest: bool  # so that its logits can teach the others of the step

    def draw(self, generator: Random) -> list[Path]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class UniformPaths:
    """One subnet a step, each choice uniform: single path one-shot.

    Guo et al., 2019, https://arxiv.org/abs/1904.00420.
    """

    begins_with_largest = False

    def __init__(self, *, space: Space[Any]) -> None:
        self.space = space

    def draw(self, generator: Random) -> list[Path]:
        return [Path(self.space.sample(generator), "random")]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"uniform paths have no state, got {sorted(state)}")


class SandwichPaths(UniformPaths):
    """The largest subnet, `num_random` uniform ones, and the smallest, in that order.

    Yu & Huang, 2019, https://arxiv.org/abs/1903.05134.
    """

    begins_with_largest = True

    def __init__(self, num_random: int, *, space: Space[Any]) -> None:
        if not isinstance(num_random, int) or isinstance(num_random, bool) or num_random < 0:
            raise ValueError(f"num_random must be an integer of at least 0, got {num_random!r}")
        super().__init__(space=space)
        self.num_random = num_random

    def draw(self, generator: Random) -> list[Path]:
        largest = Path(self.space.largest(), "largest")
        smallest = Path(self.space.smallest(), "smallest")
        randoms = [Path(self.space.sample(generator), "random") for _ in range(self.num_random)]
        return [largest, *randoms, smallest]


class DataSampler(Protocol):
    """Draws the examples of an epoch."""

    def draw_epoch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Positions (n,) in the training set and the weight (n,) of each draw."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class UniformData:
    """Every example once an epoch, in random order."""

    def __init__(self, *, num_examples: int) -> None:
        self.num_examples = num_examples

    def draw_epoch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.randperm(self.num_examples, generator=generator), torch.ones(self.num_examples)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"uniform data has no state, got {sorted(state)}")
