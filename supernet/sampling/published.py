"""PA&DA as its authors released it, to compare with: biased, without memory, without a floor.

Lu et al., 2023, https://arxiv.org/abs/2302.14772; the code, for NAS-Bench-201 alone, is in the
public repository ShunLu91/PA-DA (nasbench201/train_panda_201.py). What differs from
`path_importance` and `data_importance`: no weights; statistics start from zero every epoch, halved
at every observation; norms are read after clipping; and the share of importance is the epoch's
number over all epochs, whatever it gains. Options without parameters get no norm, hence only the
uniform part. Their convolutions have a bias whose gradient is zero, since a batch norm follows.
"""

import re
from collections.abc import Sequence
from random import Random

import torch
from torch import Generator, Tensor

from search_spaces.space import ArchT, Option, Space
from supernet.sampling.example_importance import draw_independent
from supernet.sampling.examples import DataSampler
from supernet.sampling.paths import Norms, Path, PathGradient, PathSampler


class PublishedPaths(PathSampler[ArchT]):
    """One subnet a step; choices of one kind share one distribution over their options.

    An option's norm is the sum of the norms of its tensors over all choices of the kind that took
    it, divided by their number.
    """

    norms: Norms = "clipped_choice"
    state_names = ("norm_means", "probabilities")

    def __init__(self, *, space: Space[ArchT]) -> None:
        self.space = space
        self.choices = space.choices()
        self.kinds: dict[str, Sequence[Option]] = {
            kind_of(name): options for name, options in self.choices.items()
        }
        self.norm_means = {kind: [0.0] * len(options) for kind, options in self.kinds.items()}
        self.probabilities = {
            kind: [1 / len(options)] * len(options) for kind, options in self.kinds.items()
        }

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        share = max(0, epoch - 1) / epochs  # theirs is set at the end of an epoch, by its number
        for kind, norms in self.norm_means.items():
            total, uniform = sum(norms), 1 / len(norms)
            if total > 0:
                self.probabilities[kind] = [
                    share * norm / total + (1 - share) * uniform for norm in norms
                ]
            self.norm_means[kind] = [0.0] * len(norms)

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        values: dict[str, Option] = {}
        for name, options in self.choices.items():
            (values[name],) = generator.choices(options, self.probabilities[kind_of(name)])
        return [Path(self.space.decode(values), "random")]

    def observe(self, path: Path[ArchT], gradient: PathGradient) -> None:
        found: dict[tuple[str, Option], list[float]] = {}
        for name, option in self.space.active(path.arch).items():
            if norms := gradient.choices.get(name):
                found.setdefault((kind_of(name), option), []).append(sum(norms))
        for (kind, option), sums in found.items():
            place = self.kinds[kind].index(option)
            mean = self.norm_means[kind][place]
            self.norm_means[kind][place] = (mean + sum(sums) / len(sums)) / 2

    def figures(self) -> dict[str, float]:
        return {"least_probability": min(map(min, self.probabilities.values()))}

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(map(str, options), self.probabilities[kind_of(name)], strict=True))
            for name, options in self.choices.items()
        }


def kind_of(name: str) -> str:
    """The name of a choice without the places in it: all edges are of one kind."""
    return re.sub(r"[0-9<-]+", "", name)


class PublishedData(DataSampler):
    """N draws with replacement, unweighted; examples not drawn in an epoch score 0 in the next."""

    needs_scores = True
    state_names = ("scores", "probabilities")

    def __init__(self, *, num_examples: int) -> None:
        self.num_examples = num_examples
        self.scores = torch.zeros(num_examples, dtype=torch.float64)
        self.probabilities = torch.full_like(self.scores, 1 / num_examples)

    def draw_epoch(self, generator: Generator, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
        share = max(0, epoch - 1) / epochs
        scores = self.scores.cpu()
        if scores.sum() > 0:
            uniform = (1 - share) / self.num_examples
            self.probabilities = share * scores / scores.sum() + uniform
        self.scores = torch.zeros_like(self.scores)
        return self.draw(generator)

    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """An epoch's positions and weights by the current probabilities."""
        return draw_independent(self.probabilities, generator), torch.ones(self.num_examples)

    def observe(self, indices: Tensor, scores: Tensor) -> None:
        self.scores = self.scores.to(scores.device)
        # Of an example that is drawn twice in a batch, as in theirs, the last score is kept.
        known = self.scores[indices]
        scores = scores.double()
        self.scores[indices] = torch.where(known > 0, (known + scores) / 2, scores)

    def figures(self) -> dict[str, float]:
        uniform = 1 / self.num_examples
        return {"data_ess": 1 / float((uniform**2 / self.probabilities).sum())}
