"""How much the estimate of the gradient varies over draws, at fixed weights."""

from dataclasses import dataclass
from random import Random

import torch

from nas.train.lessons import order_of
from nas.train.training import Training
from search_spaces.space import Arch
from supernet.sampling.examples import DataSampler, UniformData
from supernet.sampling.gradients import GradientMoments
from supernet.sampling.paths import PathSampler, UniformPaths


@dataclass(frozen=True, eq=False)
class Draws:
    """A way of drawing paths and examples, with generators of its own."""

    paths: PathSampler[Arch]
    examples: DataSampler
    path_generator: Random
    data_generator: torch.Generator

    @classmethod
    def seeded(cls, paths: PathSampler[Arch], examples: DataSampler, seed: int) -> "Draws":
        return cls(paths, examples, Random(seed), torch.Generator().manual_seed(seed))

    def add_one(self, training: Training, moments: GradientMoments) -> None:
        """One draw of paths and a batch: its weighted gradient goes into `moments`."""
        indices, weights = self.examples.draw(self.data_generator)
        seed = self.path_generator.getrandbits(32)
        paths = self.paths.draw(self.path_generator)
        size, parts = training.config.data.batch_size, training.parts_of(len(paths))
        order = order_of(len(indices) // size, parts, size)[: size * parts]
        drawn, weights = indices[order], weights[order].to(training.device)
        batch = next(training.data.train_batches(drawn, batch_size=len(order), seed=seed))
        training.backward(training.lessons(paths, batch, weights))
        moments.add(training.parameters)


def gradient_variances(
    training: Training, ways: dict[str, Draws], num_draws: int
) -> dict[str, GradientMoments]:
    """Moments of the gradient by way of drawing, the ways taking turns; leaves no gradients."""
    moments = {name: GradientMoments() for name in ways}
    for _ in range(num_draws):
        for name, way in ways.items():
            way.add_one(training, moments[name])
    training.optimizer.zero_grad()
    return moments


def log_variance(training: Training, num_draws: int) -> dict[str, float]:
    """The variance (trace of the covariance) of a training's own draws and of uniform ones.

    Uniform draws are single paths, so a sandwich's own variance is that of more passes a step.
    """
    space, num_train = training.config.space, training.data.num_train
    uniform = UniformPaths(space=space), UniformData(num_examples=num_train)
    ways = {
        "own": Draws.seeded(training.paths, training.data_sampler, training.step),
        "uniform": Draws.seeded(*uniform, training.step),
    }
    found = gradient_variances(training, ways, num_draws)
    own, other = found["own"].variance, found["uniform"].variance
    return {"variance": own, "uniform_variance": other, "variance_ratio": own / other}
