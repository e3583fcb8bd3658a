"""Which examples an epoch has: the interface, and uniform draws."""

from typing import Any, Protocol

import torch
from torch import Generator, Tensor


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
