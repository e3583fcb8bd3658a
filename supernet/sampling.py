"""Which subnets and which examples a training step sees: the interfaces, and uniform draws.

Path samplers and data samplers are alike: they take a generator, return each draw with its weight,
learn from what the step measured, and have a state that a checkpoint keeps. A weight is
1 / (N p) for a draw of probability p among N, so that the weighted loss estimates the uniform mean;
it is 1 for uniform draws. Importance sampling is in `path_importance`, `candidate_paths`,
`data_importance` and, as its authors released it, `published`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor

from search_spaces.space import Space

# What a path sampler learns from: nothing, the norm of each random path's whole gradient, the
# norms of each choice's own parameters, or these after the gradient was clipped.
Norms = Literal["none", "path", "choice", "clipped_choice"]

ROUNDING = 1e-9  # relative, of second moments


@dataclass(frozen=True)
class Path:
    """One subnet of a training step; `role` is largest, random or smallest.

    `ratio` is the uniform probability of a random one over that which it was drawn with, and
    `weight` what its loss is multiplied by: the ratio, or 1 where the sampler is told to leave it.
    """

    arch: Any
    role: str
    weight: float = 1.0
    ratio: float = 1.0


@dataclass(frozen=True)
class PathGradient:
    """Norms of one path's gradient alone, without the path's weight.

    `path` is that of all parameters; `choices` has those of each tensor that is a choice's own.
    """

    path: float
    choices: Mapping[str, Sequence[float]] = field(default_factory=dict)


class PathSampler(Protocol):
    """Draws the subnets of each step, in the order in which they are trained."""

    begins_with_largest: bool  # so that its logits can teach the others of the step
    norms: Norms

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Takes what was learned into use; `epoch` counts from 0."""
        ...

    def draw(self, generator: Random) -> list[Path]: ...

    def observe(self, path: Path, gradient: PathGradient) -> None:
        """Learns from the gradient of a path of role random."""
        ...

    def figures(self) -> dict[str, float]:
        """What to log of the current probabilities, by name."""
        ...

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        """Of each option of each choice; empty where choices have no distribution of their own."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Annealing:
    """How much of the probabilities importance may decide; the rest is uniform.

    `floor` is the least probability as a fraction of the uniform one; the share rises linearly to
    1 - floor over the first `annealing` of all epochs.
    """

    floor: float
    annealing: float

    def __post_init__(self) -> None:
        for name, value in {"floor": self.floor, "annealing": self.annealing}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value!r}")

    def share(self, epoch: int, epochs: int) -> float:
        return (1 - self.floor) * min(1.0, epoch / (self.annealing * epochs))


def weakest(moments: Mapping[float, float]) -> float:
    """The weakest strength whose second moment is the least but for rounding."""
    bound = min(moments.values()) * (1 + ROUNDING)
    return min(strength for strength, moment in moments.items() if moment <= bound)


class UniformPaths:
    """One subnet a step, each choice uniform: single path one-shot.

    Guo et al., 2019, https://arxiv.org/abs/1904.00420.
    """

    begins_with_largest = False
    norms: Norms = "none"

    def __init__(self, *, space: Space[Any]) -> None:
        self.space = space

    def begin_epoch(self, epoch: int, epochs: int) -> None: ...

    def draw(self, generator: Random) -> list[Path]:
        return [Path(self.space.sample(generator), "random")]

    def observe(self, path: Path, gradient: PathGradient) -> None: ...

    def figures(self) -> dict[str, float]:
        return {}

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"uniform paths have no state, got {sorted(state)}")


class SandwichPaths:
    """The largest subnet, `num_random` random ones, and the smallest, in that order.

    `random` draws the random ones: a factory, called with `space`, of a sampler of single paths.
    Yu & Huang, 2019, https://arxiv.org/abs/1903.05134.
    """

    begins_with_largest = True

    def __init__(
        self,
        num_random: int,
        random: Callable[..., PathSampler] = UniformPaths,
        *,
        space: Space[Any],
    ) -> None:
        if not isinstance(num_random, int) or isinstance(num_random, bool) or num_random < 0:
            raise ValueError(f"num_random must be an integer of at least 0, got {num_random!r}")
        self.space = space
        self.num_random = num_random
        self.random = random(space=space)
        if self.random.begins_with_largest or self.random.norms == "clipped_choice":
            raise ValueError(
                "random must draw single paths and learn from gradients as they are, "
                f"got {type(self.random).__name__}"
            )
        self.norms: Norms = self.random.norms

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.random.begin_epoch(epoch, epochs)

    def draw(self, generator: Random) -> list[Path]:
        largest = Path(self.space.largest(), "largest")
        smallest = Path(self.space.smallest(), "smallest")
        randoms = [path for _ in range(self.num_random) for path in self.random.draw(generator)]
        return [largest, *randoms, smallest]

    def observe(self, path: Path, gradient: PathGradient) -> None:
        self.random.observe(path, gradient)

    def figures(self) -> dict[str, float]:
        return self.random.figures()

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        return self.random.option_probabilities()

    def state_dict(self) -> dict[str, Any]:
        return self.random.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.load_state_dict(state)


class DataSampler(Protocol):
    """Draws the examples of an epoch."""

    needs_scores: bool

    def draw_epoch(self, generator: Generator, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
        """Positions (n,) in the training set and the weight (n,) of each draw; on the CPU.

        What was observed is taken into use here; `epoch` counts from 0.
        """
        ...

    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The same by the probabilities as they are."""
        ...

    def observe(self, indices: Tensor, scores: Tensor) -> None:
        """Learns from examples (B,) of a batch: the norm of the gradient at each one's logits.

        `scores` are without the weights that the losses were multiplied by.
        """
        ...

    def figures(self) -> dict[str, float]:
        """What to log of the current probabilities, by name."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class UniformData:
    """Every example once an epoch, in random order."""

    needs_scores = False

    def __init__(self, *, num_examples: int) -> None:
        self.num_examples = num_examples

    def draw_epoch(self, generator: Generator, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
        return self.draw(generator)

    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.randperm(self.num_examples, generator=generator), torch.ones(self.num_examples)

    def observe(self, indices: Tensor, scores: Tensor) -> None: ...

    def figures(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"uniform data has no state, got {sorted(state)}")
