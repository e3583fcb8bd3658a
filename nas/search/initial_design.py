"""Random architectures to begin a search with, within the budgets that can be counted exactly."""

from collections.abc import Callable, Mapping
from math import inf
from random import Random

from nas.budgets import Budgets
from search_spaces.space import ArchT, Space

# Figures of an architecture that need no measuring, by the cost of a budget.
Count = Callable[[ArchT], Mapping[str, float]]
Tried = Callable[[ArchT], bool]  # whether an architecture was judged, or some worker is at it

TRIES, REPAIRS = 4, 4  # random draws for each architecture, and of those repaired
MOST_DRAWS = 100  # where all draws so far were tried before


def initial_design(
    space: Space[ArchT],
    count: int,
    generator: Random,
    figures: Count[ArchT],
    budgets: Budgets,
    *,
    tried: Tried[ArchT] = lambda _: False,
) -> list[ArchT]:
    """Up to `count` distinct random architectures that meet the bounds on what `figures` counts.

    Where a few draws do not, more are repaired, choice by choice; if that fails too, the one that
    comes closest is taken. Fewer are returned only where the space has no more that draws find.
    """
    chosen: list[ArchT] = []
    for _ in range(count):
        closest, least = None, inf
        for attempt in range(MOST_DRAWS):
            arch = space.sample(generator)
            if attempt >= TRIES:
                arch = repaired(space, arch, generator, figures, budgets)
            off = budgets.total_excess(figures(arch))
            if off < least and arch not in chosen and not tried(arch):
                closest, least = arch, off
            if least == 0 or (attempt + 1 >= TRIES + REPAIRS and closest is not None):
                break
        if closest is not None:
            chosen.append(closest)
    return chosen


def repaired(
    space: Space[ArchT],
    arch: ArchT,
    generator: Random,
    figures: Count[ArchT],
    budgets: Budgets,
) -> ArchT:
    """`arch`, moved by a step of one choice at a time until it meets the bounds or cannot move."""
    choices = space.choices()
    upper = Budgets(tuple(bound for bound in budgets if not bound.is_lower))
    for _ in range(sum(len(options) for options in choices.values())):
        counted = figures(arch)
        if budgets.total_excess(counted) == 0:
            break
        step = -1 if upper.total_excess(counted) > 0 else 1
        values = space.encode(arch)
        places = {name: choices[name].index(values[name]) + step for name in space.active(arch)}
        movable = [name for name, place in places.items() if 0 <= place < len(choices[name])]
        if not movable:
            break
        name = generator.choice(movable)
        arch = space.decode(values | {name: choices[name][places[name]]})
    return arch
