"""Examples drawn by the size of their gradients, so that the gradient's estimate varies less.

The score of an example is the norm of its loss's gradient at the outputs, from the training forward
itself: for cross entropy the distance of the softmax from the target. It bounds the gradient's norm
up to a factor that varies little (Katharopoulos & Fleuret, 2018, https://arxiv.org/abs/1803.00942),
and is what PA&DA uses (Lu et al., 2023, https://arxiv.org/abs/2302.14772), here with scores that
outlive the epoch, draws that repeat no more than they must, weights, and a share of importance
decided by what it would have saved on the last epoch's draws.
"""

import torch
from torch import Generator, Tensor

from supernet.sampling.annealing import Annealing, judge
from supernet.sampling.examples import DataSampler

NUM_SHARES = 11  # candidates for the share of importance, from 0 to the annealed limit


class ImportanceData(DataSampler):
    """N draws an epoch, with probabilities between `floor` / N and what the scores ask for.

    An example's importance is the root of the decayed mean, over the epochs in which it was drawn,
    of its squared scores; one that was never drawn counts as the mean of the others. The share of
    importance is at most 1 - `floor`, a limit that rises linearly over the first `annealing` of all
    epochs. With `weighted` each draw's loss is multiplied by 1 / (N p), which keeps the estimate
    unbiased; without, importance has its whole share. `draws` systematic: an example is drawn N p
    times, rounded down or up (Kitagawa, 1996); independent: with replacement.
    """

    needs_scores = True
    state_names = ("mean_squares", "probabilities", "share", "gain", "seen")

    def __init__(
        self,
        floor: float = 0.1,
        annealing: float = 0.1,
        decay: float = 0.6,
        weighted: bool = True,
        draws: str = "systematic",
        *,
        num_examples: int,
    ) -> None:
        self.annealing = Annealing(floor, annealing)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay!r}")
        if draws not in ("systematic", "independent"):
            raise ValueError(f"draws must be systematic or independent, got {draws!r}")
        self.decay = decay
        self.weighted = weighted
        self.draws = draws
        self.num_examples = num_examples
        self.mean_squares = torch.zeros(num_examples, dtype=torch.float64)  # 0 if never drawn
        self.probabilities = torch.full_like(self.mean_squares, 1 / num_examples)
        self.share = 0.0
        self.gain = 1.0
        # This epoch's observations of each example: count, and sum of squared scores. On the device
        # that they come from.
        self.seen = torch.zeros(2, num_examples, dtype=torch.float64)

    def draw_epoch(self, generator: Generator, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
        self.learn(self.annealing.share(epoch, epochs))
        return self.draw(generator)

    def draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """An epoch's positions and weights by the current probabilities."""
        draw = draw_systematic if self.draws == "systematic" else draw_independent
        indices = draw(self.probabilities, generator)
        weights = 1 / (self.num_examples * self.probabilities[indices])
        return indices, weights.float() if self.weighted else torch.ones(len(indices))

    def learn(self, limit: float) -> None:
        """Takes the epoch's observations into scores, share and probabilities."""
        count, total = self.seen.cpu()
        if not count.any():
            return
        shares = [limit * step / (NUM_SHARES - 1) for step in range(NUM_SHARES)]
        # Judged by the importances from before this epoch, so that one that ages badly shows.
        weighted = total / self.probabilities
        moments = {share: float((weighted / self.mix(share)).sum()) for share in shares}
        self.share, self.gain = judge(moments, self.weighted)
        drawn = count > 0
        means = total[drawn] / count[drawn]
        known = self.mean_squares[drawn]
        decayed = self.decay * known + (1 - self.decay) * means
        self.mean_squares[drawn] = torch.where(known > 0, decayed, means)
        self.probabilities = self.mix(self.share)
        self.seen = torch.zeros_like(self.seen)

    def mix(self, share: float) -> Tensor:
        """The probability of each example: a share by importance, the rest uniform."""
        importances = self.mean_squares.sqrt()
        known = importances > 0
        if not known.any():
            return torch.full_like(importances, 1 / self.num_examples)
        importances = torch.where(known, importances, importances[known].mean())
        return (1 - share) / self.num_examples + share * importances / importances.sum()

    def observe(self, indices: Tensor, scores: Tensor) -> None:
        self.seen = self.seen.to(scores.device)
        squares = scores.double() ** 2
        self.seen.index_add_(1, indices, torch.stack([torch.ones_like(squares), squares]))

    def figures(self) -> dict[str, float]:
        """`data_ess`: effective over actual number of an epoch's draws, by their weights.

        Where draws are weighted, `data_gain`: the second moment of the scores over that of uniform
        draws, as the share in use would have had it in the last epoch.
        """
        uniform = 1 / self.num_examples
        ess = 1 / float((uniform**2 / self.probabilities).sum())
        figures = {"data_ess": ess, "data_share": self.share}
        return figures | ({"data_gain": self.gain} if self.weighted else {})


def draw_systematic(probabilities: Tensor, generator: Generator) -> Tensor:
    """N draws in random order, each example N p times, rounded down or up."""
    order = torch.randperm(len(probabilities), generator=generator)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    points = torch.arange(len(order), dtype=torch.float64) + offset
    drawn = order[places(probabilities[order], points / len(order))]
    return drawn[torch.randperm(len(drawn), generator=generator)]


def draw_independent(probabilities: Tensor, generator: Generator) -> Tensor:
    """N draws with replacement."""
    points = torch.rand(len(probabilities), generator=generator, dtype=torch.float64)
    return places(probabilities, points)


def places(probabilities: Tensor, points: Tensor) -> Tensor:
    """Where points in [0, 1) lie among the intervals whose lengths are the probabilities."""
    ends = probabilities.cumsum(0)
    return torch.searchsorted(ends / ends[-1], points, right=True).clamp(max=len(ends) - 1)
