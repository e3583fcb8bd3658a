"""Every sampler on small spaces, made-up gradients to learn from, and the law of their draws."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import product
from random import Random
from typing import Any

import torch
from torch import Generator, Tensor

from search_spaces.cell import CellSpace
from search_spaces.space import Space, to_record
from search_spaces.vit import ViTSpace
from supernet.sampling.example_importance import ImportanceData
from supernet.sampling.examples import DataSampler, UniformData
from supernet.sampling.path_importance import FactorisedPaths
from supernet.sampling.paths import (
    Path,
    PathGradient,
    PathSampler,
    SandwichPaths,
    SinglePath,
    UniformPaths,
)
from supernet.sampling.published import PublishedData, PublishedPaths

PATHS: dict[str, Callable[..., PathSampler[Any]]] = {  # called with space
    "uniform": UniformPaths,
    "sandwich": partial(SandwichPaths, 2),
    "single": lambda space: SinglePath(to_record(space.sample(Random(7))), space=space),
    "sandwich_importance": partial(SandwichPaths, 2, FactorisedPaths),
    "factorised": FactorisedPaths,
    "factorised_choice": partial(FactorisedPaths, attribution="choice"),
    "published": PublishedPaths,
}
DATA: dict[str, Callable[..., DataSampler]] = {  # called with num_examples
    "uniform": UniformData,
    "systematic": ImportanceData,
    "systematic_unweighted": partial(ImportanceData, weighted=False),
    "independent": partial(ImportanceData, draws="independent"),
    "independent_unweighted": partial(ImportanceData, draws="independent", weighted=False),
    "published": PublishedData,
}
# 64 cells; and 20 transformers, of which the shallow ones do not use the second block's choices.
FEW_CELLS = CellSpace(operations=("skip_connect", "nor_conv_1x1"), channels=2, num_cells=1)
FEW_DEPTHS = ViTSpace(embed_dim=(4,), depth=(1, 2), num_heads=(1, 2), mlp_ratio=(1, 3), head_dim=3)
EPOCHS = 5


def made_up(space: Space[Any], arch: Any) -> PathGradient:
    """The norm is a product over choices; each later option's is larger by half."""
    options = space.choices()
    factors = {
        name: 1.5 ** options[name].index(option) for name, option in space.active(arch).items()
    }
    whole = 1.0
    for factor in factors.values():
        whole *= factor
    return PathGradient(whole, {name: [factor, factor / 2] for name, factor in factors.items()})


def learn_paths(
    paths: PathSampler[Any],
    space: Space[Any],
    gradient: Callable[[Space[Any], Any], PathGradient] = made_up,
    *,
    steps: int = 80,
    seed: int = 0,
) -> None:
    """All but the last of `EPOCHS`, and the beginning of the last."""
    generator = Random(seed)
    for epoch in range(EPOCHS - 1):
        paths.begin_epoch(epoch, EPOCHS)
        for _ in range(steps):
            for path in paths.draw(generator):
                if path.role == "random":
                    paths.observe(path, gradient(space, path.arch))
    paths.begin_epoch(EPOCHS - 1, EPOCHS)


def some_scores(num_examples: int) -> Tensor:
    """Scores (n,) that span a factor of twenty."""
    return torch.linspace(-1.5, 1.5, num_examples, dtype=torch.float64).exp()


def learn_data(data: DataSampler, scores: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """All but the last of `EPOCHS`, in batches; returns the last one's draw."""
    generator = Generator().manual_seed(seed)
    for epoch in range(EPOCHS - 1):
        indices, _ = data.draw_epoch(generator, epoch, EPOCHS)
        for batch in indices.split(7):
            data.observe(batch, scores[batch].float())
    return data.draw_epoch(generator, EPOCHS - 1, EPOCHS)


class Scripted(Random):
    """Gives what a script of positions says, and multiplies up the probability of that."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__(0)
        self.script = list(script)
        self.branches: list[int] = []  # how many outcomes each decision had
        self.probability = 1.0

    def decide(self, chances: Sequence[float]) -> int:
        if len(self.branches) == len(self.script):
            self.script.append(0)
        place = self.script[len(self.branches)]
        self.branches.append(len(chances))
        self.probability *= chances[place] / sum(chances)
        return place

    def choice(self, seq: Any) -> Any:
        return seq[self.decide([1.0] * len(seq))]

    def choices(
        self, population: Any, weights: Any = None, *, cum_weights: Any = None, k: int = 1
    ) -> list[Any]:
        assert (cum_weights, k) == (None, 1)
        return [population[self.decide(weights)]]


def outcomes(paths: PathSampler[Any]) -> Iterator[tuple[list[Path[Any]], float]]:
    """Every draw that can come, with its probability."""
    script: list[int] = []
    while True:
        generator = Scripted(script)
        yield paths.draw(generator), generator.probability
        script = generator.script
        while script and script[-1] == generator.branches[len(script) - 1] - 1:
            script.pop()
        if not script:
            return
        script[-1] += 1


def law(paths: PathSampler[Any]) -> dict[Any, tuple[float, float, float]]:
    """Of each random path: E[count], E[sum of weights], E[sum of squared weights] in a draw."""
    sums: dict[Hashable, tuple[float, float, float]] = defaultdict(lambda: (0.0, 0.0, 0.0))
    for drawn, probability in outcomes(paths):
        for path in drawn:
            if path.role == "random":
                count, first, second = sums[path.arch]
                sums[path.arch] = (
                    count + probability,
                    first + probability * path.weight,
                    second + probability * path.weight**2,
                )
    return dict(sums)


def uniform_law(space: Space[Any]) -> dict[Any, float]:
    """The probability of each architecture when every choice is uniform."""
    choices = space.choices()
    found: dict[Hashable, float] = defaultdict(float)
    assignments = list(product(*choices.values()))
    for values in assignments:
        found[space.decode(dict(zip(choices, values, strict=True)))] += 1 / len(assignments)
    return dict(found)
