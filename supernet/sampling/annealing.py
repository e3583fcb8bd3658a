"""How much of the probabilities importance may decide, and how much of it pays."""

from collections.abc import Mapping
from dataclasses import dataclass

ROUNDING = 1e-9  # relative, of second moments


@dataclass(frozen=True)
class Annealing:
    """How much of the probabilities importance may decide; the rest is uniform.

    `floor` is the least probability as a fraction of the uniform one; the share rises linearly to
    1 - floor over the first `annealing` of all epochs.
    """

    floor: float
    annealing: float

    def __post_init__(self) -> None:
        for name, value in {"floor": self.floor, "annealing": self.annealing}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value!r}")

    def share(self, epoch: int, epochs: int) -> float:
        return (1 - self.floor) * min(1.0, epoch / (self.annealing * epochs))


def judge(moments: Mapping[float, float], weighted: bool) -> tuple[float, float]:
    """The strength to use, by the second moment that each would have had, and its gain.

    It is the weakest one whose moment is the least but for rounding, or the greatest one where
    draws are not weighted. The gain is its moment over that of strength 0.
    """
    bound = min(moments.values()) * (1 + ROUNDING)
    best = min(strength for strength, moment in moments.items() if moment <= bound)
    strength = best if weighted else max(moments)
    return strength, moments[strength] / moments[0.0] if moments[0.0] else 1.0
