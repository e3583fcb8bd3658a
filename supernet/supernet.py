"""What every family of supernets offers: the seam between the weights and the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Generator, Tensor, nn

from search_spaces.space import ArchT, Space
from supernet.sources.source import SourceFactory
from supernet.task import Task

SpaceT = TypeVar("SpaceT")


class Supernet(nn.Module, ABC, Generic[ArchT]):
    """One set of weights for every architecture of a space.

    A family is made by `from_config`, so that its constructor is called with a space, the sizes of
    `sizes`, a source factory for each role, and a generator of the initial weights.
    """

    fixed: Any  # a frozen dataclass of plain values: what all architectures have in common

    @classmethod
    @abstractmethod
    def sizes(cls, space: Space[ArchT], task: Task) -> Any:
        """`fixed`; raises ValueError that names the key where space and task do not go together."""

    @classmethod
    @abstractmethod
    def plain(cls, arch: ArchT, fixed: Any, *, device: torch.device | str = "cpu") -> nn.Module:
        """The plain model of an architecture, untrained: stock modules that need no supernet.

        On the device "meta" nothing is allocated.
        """

    @classmethod
    def check_sources(cls, space: Space[ArchT], sources: Mapping[str, SourceFactory]) -> None:
        """Raises ValueError that names the key unless the family can use these sources."""
        if sources:
            raise ValueError(
                f"source must be empty for {cls.__name__} (source=none), got {sorted(sources)}"
            )

    @classmethod
    def from_config(
        cls,
        space: Space[ArchT],
        task: Task,
        sources: Mapping[str, SourceFactory],
        *,
        generator: Generator,
    ) -> Self:
        """Initial weights on the CPU, a function of the generator alone."""
        family: Any = cls
        made: Self = family(space, cls.sizes(space, task), sources, generator=generator)
        return made

    @abstractmethod
    def forward(self, *inputs: Any, **arch: Any) -> Tensor:
        """Outputs (B, num_outputs) of one subnet: `supernet(*batch.inputs, arch=arch)`."""

    @abstractmethod
    def factorise(self, arch: ArchT) -> dict[str, Tensor]:
        """Copies of what a subnet must store, shared factors once."""

    @abstractmethod
    def merge(self, tensors: Mapping[str, Tensor], arch: ArchT) -> dict[str, Tensor]:
        """The state dict of the plain model from what `factorise` returned."""

    @abstractmethod
    def load_plain(self, state: Mapping[str, Tensor], arch: ArchT) -> None:
        """Puts the weights of a plain model of `arch` into the supernet.

        Exact where each layer has weights of its own; otherwise the sources' best fit. Raises
        ValueError for weights of another model.
        """

    def choice_gradients(self, arch: ArchT) -> dict[str, list[Tensor]]:
        """The gradients of each choice's own parameters in use by `arch`, after a backward pass.

        Choices without parameters of their own have an empty list; unused ones are left out.
        Optional: only samplers that read it need it. Raises ValueError where a family has none.
        """
        raise ValueError(
            f"paths must not need gradients of choices, which {type(self).__name__} does not tell"
        )

    def tolerance(self, arch: ArchT) -> float:
        """Largest difference of an output between the plain model and this, in fp32 on the CPU."""
        return 1e-5

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's rule (vectors do not decay) misses."""
        return set()

    def build(self, arch: ArchT, *, device: torch.device | str = "cpu") -> nn.Module:
        """As `plain`, with this supernet's sizes."""
        return self.plain(arch, self.fixed, device=device)

    def extract(self, arch: ArchT) -> nn.Module:
        """The plain model of a subnet, in eval mode, with copies of its weights.

        Batch norms, where it has any, come without statistics: see `supernet.batch_norm`.
        """
        model = self.build(arch, device="meta")
        state = self.merge(self.factorise(arch), arch)
        model.load_state_dict(state, assign=True)
        return model.eval()

    def check_plain(self, state: Mapping[str, Tensor], arch: ArchT) -> None:
        """Raises ValueError unless a state has what the plain model of `arch` has."""
        wanted = {name: t.shape for name, t in self.build(arch, device="meta").state_dict().items()}
        found = {name: tensor.shape for name, tensor in state.items()}
        if odd := sorted({name for name, _ in wanted.items() ^ found.items()}):
            raise ValueError(f"state must be that of the plain model of {arch}, differing: {odd}")


def space_of(family: type[Supernet[ArchT]], kind: type[SpaceT], space: Space[ArchT]) -> SpaceT:
    """The same space, known to be of the kind that a family is for; raises ValueError."""
    if not isinstance(space, kind):
        raise ValueError(
            f"space.supernet must be one for {type(space).__name__}, got {family.__name__}"
        )
    return space
