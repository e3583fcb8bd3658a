"""Which subnets a training step sees: the interface, uniform draws and the sandwich."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol

from search_spaces.space import Space

# What a path sampler learns from: nothing, the norm of each random path's whole gradient, the
# norms of each choice's own parameters, or these after the gradient was clipped.
Norms = Literal["none", "path", "choice", "clipped_choice"]


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
