"""Random architectures to begin a search with, within the budgets that can be counted exactly."""

from collections.abc import Callable, Collection, Mapping
from math import inf
from random import Random

from nas.config.sections import MIN
from search_spaces.space import ArchT, Space

Exact = Callable[[ArchT], Mapping[str, float]]

TRIES, REPAIRS = 4, 4  # random draws for each architecture, and of those repaired


def violation(costs: Mapping[str, float], bounds: Mapping[str, float]) -> float:
    """By how much the bounds on the given costs are broken, as a sum of fractions; 0 if none is."""
    total = 0.0
    for name, bound in bounds.items():
        key = name.removeprefix(MIN)
        if key in costs:
            over = costs[key] / bound - 1
            total += max(over if key == name else -over, 0.0)
    return total


def space_filling(
    space: Space[ArchT],
    count: int,
    generator: Random,
    exact: Exact[ArchT],
    bounds: Mapping[str, float],
    *,
    tried: Collection[ArchT] = (),
) -> list[ArchT]:
    """Up to `count` distinct random architectures that meet the bounds on what `exact` counts.

    Where a few draws do not, more are repaired, choice by choice; if that fails too, the one that
    comes closest is taken. Fewer are returned only where the space has no more that draws find.
    """
    chosen: list[ArchT] = []
    for _ in range(count):
        seen = {*tried, *chosen}
        closest, least = None, inf
        for attempt in range(TRIES + REPAIRS):
            arch = space.sample(generator)
            if attempt >= TRIES:
                arch = repaired(space, arch, generator, exact, bounds)
            off = violation(exact(arch), bounds)
            if off < least and arch not in seen:
                closest, least = arch, off
            if least == 0:
                break
        if closest is not None:
            chosen.append(closest)
    return chosen


def repaired(
    space: Space[ArchT],
    arch: ArchT,
    generator: Random,
    exact: Exact[ArchT],
    bounds: Mapping[str, float],
) -> ArchT:
    """`arch`, moved by a step of one choice at a time until it meets the bounds or cannot move."""
    choices = space.choices()
    upper = {name: bound for name, bound in bounds.items() if not name.startswith(MIN)}
    for _ in range(sum(len(options) for options in choices.values())):
        costs = exact(arch)
        if violation(costs, bounds) == 0:
            break
        step = -1 if violation(costs, upper) > 0 else 1
        values = space.encode(arch)
        places = {name: choices[name].index(values[name]) + step for name in space.active(arch)}
        movable = [name for name, place in places.items() if 0 <= place < len(choices[name])]
        if not movable:
            break
        name = generator.choice(movable)
        arch = space.decode(values | {name: choices[name][places[name]]})
    return arch
