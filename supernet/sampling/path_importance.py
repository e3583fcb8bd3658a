"""Paths drawn by the size of their gradients, so that the gradient's estimate varies less.

A path a has the uniform probability u(a); drawn with p(a) and weighted by u(a) / p(a), its gradient
g_a estimates the uniform mean whatever p is, with the second moment E_u[u/p |g|^2], which is least
for p proportional to u |g|. After PA&DA (Lu et al., 2023, https://arxiv.org/abs/2302.14772), which
draws operations by the norms of their own gradients and applies no weights; here any space has
importances, statistics are never reset, and how strongly they are used is decided by what they
would have saved on the draws of late.
"""

import math
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from search_spaces.space import ArchT, Option, Space
from supernet.sampling.annealing import Annealing, judge
from supernet.sampling.paths import Norms, Path, PathGradient, PathSampler, State

# How strongly importances may be used: exponents of the predicted norms.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED = 512  # draws on which a strength is judged


class Draw(NamedTuple):
    """One drawn path: the column of each option in use, its ratio u / p, its squared norm.

    `ratios` are those that it would have had by each strength, before anything was learned from it.
    """

    columns: tuple[int, ...]
    ratio: float
    squared_norm: float
    ratios: tuple[float, ...]


class FactorisedPaths(PathSampler[ArchT]):
    """One subnet a step, each choice drawn on its own by the gradients that its options had.

    The importance of an option is the root of the decayed mean of squared gradient norms, over the
    whole run, of the paths that had it (`attribution` path) or of its own parameters (choice; none
    for an option without parameters, which the floor keeps alive). If `weighted`, the mean is that
    over uniform other choices, whatever they were drawn by. Options that were never drawn count as
    the mean of the others of their choice. `floor` is the least probability as a fraction of the
    uniform one; the share of importance rises linearly to 1 - floor over the first `annealing` of
    all epochs. Not `weighted`, paths of large gradients are trained more, and importances are used
    at full strength.
    """

    state_names = (
        "draws",
        "share",
        "strength",
        "gain",
        "mean_squares",
        "evidence",
        "candidates",
        "probabilities",
    )

    def __init__(
        self,
        floor: float = 0.2,
        annealing: float = 0.1,
        decay: float = 0.98,
        attribution: str = "path",
        weighted: bool = True,
        *,
        space: Space[ArchT],
    ) -> None:
        if attribution not in ("path", "choice"):
            raise ValueError(f"attribution must be path or choice, got {attribution!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay!r}")
        self.space = space
        self.annealing = Annealing(floor, annealing)
        self.norms: Norms = "path" if attribution == "path" else "choice"
        self.decay = decay
        self.weighted = weighted
        self.choices = space.choices()
        self.columns: dict[tuple[str, Option], int] = {}
        self.places: dict[str, slice] = {}  # of each choice, among columns
        self.uniform: list[float] = []  # probability of each column
        for name, options in self.choices.items():
            first = len(self.columns)
            self.places[name] = slice(first, first + len(options))
            self.columns |= {(name, option): first + i for i, option in enumerate(options)}
            self.uniform += [1 / len(options)] * len(options)
        self.draws: deque[Draw] = deque(maxlen=JUDGED)
        self.share = 0.0
        self.strength = 0.0
        self.gain = 1.0
        # Of each column: the decayed mean of squared norms and what it weighs, 0 if never drawn.
        self.mean_squares = [0.0] * len(self.columns)
        self.evidence = [0.0] * len(self.columns)
        self.probabilities = list(self.uniform)
        self.candidates = [self.probabilities for _ in STRENGTHS]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.share = self.annealing.share(epoch, epochs)
        moments = {strength: self.second_moment(strength) for strength in STRENGTHS}
        self.strength, self.gain = judge(moments, self.weighted)
        # The next draws judge them, which they know nothing of.
        self.candidates = [self.mix(strength) for strength in STRENGTHS]
        self.probabilities = self.candidates[STRENGTHS.index(self.strength)]

    def draw(self, generator: Random) -> list[Path[ArchT]]:
        values: dict[str, Option] = {}
        for name, options in self.choices.items():
            (values[name],) = generator.choices(options, self.probabilities[self.places[name]])
        arch = self.space.decode(values)
        ratio = self.weight(self.columns_of(arch), self.probabilities)
        return [Path(arch, "random", ratio if self.weighted else 1.0, ratio)]

    def columns_of(self, arch: ArchT) -> tuple[int, ...]:
        """The columns of the options that an architecture uses, in the order of choices."""
        return tuple(self.columns[item] for item in self.space.active(arch).items())

    def weight(self, columns: Sequence[int], probabilities: Sequence[float]) -> float:
        """u / p of a path; choices that it does not use have no part in it."""
        return math.prod(self.uniform[column] / probabilities[column] for column in columns)

    def observe(self, path: Path[ArchT], gradient: PathGradient) -> None:
        columns = self.columns_of(path.arch)
        ratios = tuple(self.weight(columns, chances) for chances in self.candidates)
        self.draws.append(Draw(columns, path.ratio, gradient.path**2, ratios))
        for name, column in zip(self.space.active(path.arch), columns, strict=True):
            own = [gradient.path] if self.norms == "path" else gradient.choices.get(name, ())
            # u / p of the path's other choices, for the mean over uniform ones.
            others = path.ratio * self.probabilities[column] / self.uniform[column]
            self.learn(column, sum(norm**2 for norm in own), others if self.weighted else 1.0)

    def learn(self, column: int, squared_norm: float, weight: float) -> None:
        """One more observation of an option, in a mean whose older ones fade."""
        faded = self.decay * self.evidence[column]
        fresh = (1 - self.decay) * weight
        self.evidence[column] = faded + fresh
        step = fresh / (faded + fresh)
        self.mean_squares[column] += step * (squared_norm - self.mean_squares[column])

    def second_moment(self, strength: float) -> float:
        """Of the estimate that a strength would have given on the draws of late; 0 without any."""
        place = STRENGTHS.index(strength)
        moments = [draw.ratio * draw.squared_norm * draw.ratios[place] for draw in self.draws]
        return sum(moments) / max(1, len(moments))

    def mix(self, strength: float) -> list[float]:
        """Each option's probability: a share by importance, the rest uniform."""
        probabilities: list[float] = []
        for place in self.places.values():
            columns = list(zip(self.mean_squares[place], self.evidence[place], strict=True))
            known = [square**0.5 for square, evidence in columns if evidence]
            # Without any gradient all options are alike.
            if not any(known):
                columns, known = [(0.0, 0.0)] * len(columns), [1.0]
            mean = sum(known) / len(known)
            importances = [
                (square**0.5 if evidence else mean) ** strength for square, evidence in columns
            ]
            total, uniform = sum(importances), 1 / len(columns)
            probabilities += [
                # In this form equal importances leave the uniform probability as it is, to the bit.
                uniform + self.share * (importance / total - uniform)
                for importance in importances
            ]
        return probabilities

    def option_probabilities(self) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(map(str, options), self.probabilities[self.places[name]], strict=True))
            for name, options in self.choices.items()
        }

    def figures(self) -> dict[str, float]:
        """`path_ess`: effective over actual number of the draws of late, weighted by u / p.

        Where draws are weighted, `path_gain`: the second moment of the gradient's estimate over
        that of uniform paths, as the strength in use would have had it on the draws of late.
        """
        ratios = [draw.ratio for draw in self.draws]
        squares = sum(ratio**2 for ratio in ratios)
        ess = sum(ratios) ** 2 / (len(ratios) * squares) if ratios else 1.0
        figures = {"path_ess": ess, "path_strength": self.strength}
        return figures | ({"path_gain": self.gain} if self.weighted else {})

    def state_dict(self) -> State:
        draws = [[list(d.columns), d.ratio, d.squared_norm, list(d.ratios)] for d in self.draws]
        return {**super().state_dict(), "draws": draws}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.draws = deque((Draw(tuple(c), r, n, tuple(rs)) for c, r, n, rs in self.draws), JUDGED)
