"""Which subnets a training step sees: the interface, uniform draws and the sandwich."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, Literal

from torch import Tensor

from search_spaces.space import ArchT, Space

State = dict[str, Any]  # of whatever a checkpoint keeps

# What a path sampler learns from: nothing, the norm of each random path's whole gradient, the
# norms of each choice's own parameters, or these after the gradient was clipped.
Norms = Literal["none", "path", "choice", "clipped_choice"]


class Stateful:
    """What has a state: the attributes of these names, of plain values and tensors."""

    state_names: tuple[str, ...] = ()

    def state_dict(self) -> State:
        return {name: getattr(self, name) for name in self.state_names}

    def load_state_dict(self, state: State) -> None:
        """Copies, with tensors on the CPU; raises ValueError for the state of something else."""
        if state.keys() != set(self.state_names):
            raise ValueError(f"the state must have {list(self.state_names)}, got {sorted(state)}")
        for name, value in state.items():
            own = value.cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            setattr(self, name, own)


@dataclass(frozen=True)
class Path(Generic[ArchT]):
    """One subnet of a training step; `role` is largest, random or smallest.

    `ratio` is the uniform probability of a random one over that which it was drawn with, and
    `weight` what its loss is multiplied by: the ratio, or 1 where the sampler is told to leave it.
    """

    arch: ArchT
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


class PathSampler(Stateful, ABC, Generic[ArchT]):
    """Draws the subnets of each step, in the order in which they are trained."""

    begins_with_largest = False  # so that its outputs can teach the others of the step
    num_paths = 1  # of a step of this epoch
    norms: Norms = "none"
    only: ArchT | None = None  # the subnet that is trained, where it is always the same

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Takes what was learned into use; `epoch` counts from 0."""

    @abstractmethod
    def draw(self, generator: Random) -> list[Path[ArchT]]: ...

    def observe(self, path: Path[ArchT], gradient: PathGradient) -> None:
        """Learns from the gradient of a path of role random."""

    def figures(self) -> dict[str, float]:
        """What to log of the current probabilities, by name."""
        return {}

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        """Of each option of each choice; empty where choices have no distribution of their own."""
        return {}


class UniformPaths(PathSampler[ArchT]):
    """One subnet a step, each choice uniform: single path one-shot.

    Guo et al., 2019, https://arxiv.org/abs/1904.00420.
    """

    def __init__(self, *, space: Space[ArchT]) -> None:
        self.space = space

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        return [Path(self.space.sample(generator), "random")]


class SinglePath(PathSampler[ArchT]):
    """The same subnet at every step, given by its JSON record."""

    def __init__(self, arch: Mapping[str, object], *, space: Space[ArchT]) -> None:
        if not isinstance(arch, Mapping):
            raise ValueError(f"arch must be a mapping, an architecture, got {arch!r}")
        self.only = self.arch = space.from_record(arch)

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        return [Path(self.arch, "single")]


class SandwichPaths(PathSampler[ArchT]):
    """The largest subnet, `num_random` random ones, and the smallest, in that order.

    `random` draws the random ones: a factory, called with `space`, of a sampler of single paths.
    For a share `largest_first` of the epochs the largest learns alone.
    Yu & Huang, 2019, https://arxiv.org/abs/1903.05134.
    """

    begins_with_largest = True

    def __init__(
        self,
        num_random: int,
        random: Callable[..., PathSampler[ArchT]] = UniformPaths,
        largest_first: float = 0.0,
        *,
        space: Space[ArchT],
    ) -> None:
        if not isinstance(num_random, int) or isinstance(num_random, bool) or num_random < 0:
            raise ValueError(f"num_random must be an integer of at least 0, got {num_random!r}")
        if not 0 <= largest_first < 1:
            raise ValueError(f"largest_first must be in [0, 1), got {largest_first}")
        self.space = space
        self.num_random = num_random
        self.largest_first, self.largest_alone = largest_first, False
        self.random = random(space=space)
        if self.random.begins_with_largest or self.random.norms == "clipped_choice":
            raise ValueError(
                "random must draw single paths and learn from gradients as they are, "
                f"got {type(self.random).__name__}"
            )
        self.norms: Norms = self.random.norms

    @property
    def num_paths(self) -> int:  # type: ignore[override]
        return 1 if self.largest_alone else self.num_random + 2

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.largest_alone = epoch < round(self.largest_first * epochs)
        self.random.begin_epoch(epoch, epochs)

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        largest = Path(self.space.largest(), "largest")
        if self.largest_alone:
            return [largest]
        smallest = Path(self.space.smallest(), "smallest")
        randoms = [path for _ in range(self.num_random) for path in self.random.draw(generator)]
        return [largest, *randoms, smallest]

    def observe(self, path: Path[ArchT], gradient: PathGradient) -> None:
        self.random.observe(path, gradient)

    def figures(self) -> dict[str, float]:
        return self.random.figures()

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        return self.random.option_probabilities()

    def state_dict(self) -> State:
        return {"largest_alone": self.largest_alone, **self.random.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.largest_alone = state.get("largest_alone", False)  # earlier versions had no such share
        own = {name: value for name, value in state.items() if name != "largest_alone"}
        self.random.load_state_dict(own)
