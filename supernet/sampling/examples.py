"""Which examples an epoch has: the interface, and uniform draws."""

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from supernet.sampling.paths import Stateful


class DataSampler(Stateful, ABC):
    """Draws the examples of an epoch."""

    needs_scores = False

    def draw_epoch(self, generator: Generator, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
        """Positions (n,) in the training set and the weight (n,) of each draw; on the CPU.

        What was observed is taken into use here; `epoch` counts from 0.
        """
        return self.draw(generator)

    @abstractmethod
    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The same by the probabilities as they are."""

    def observe(self, indices: Tensor, scores: Tensor) -> None:
        """Learns from examples (B,) of a batch: the norm of the gradient at each one's outputs.

        `scores` are without the weights that the losses were multiplied by.
        """

    def figures(self) -> dict[str, float]:
        """What to log of the current probabilities, by name."""
        return {}


class UniformData(DataSampler):
    """Every example once an epoch, in random order."""

    def __init__(self, *, num_examples: int) -> None:
        self.num_examples = num_examples

    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.randperm(self.num_examples, generator=generator), torch.ones(self.num_examples)
